"""A checkpoint's folder -> its backbone, whichever that is."""

from collections.abc import Sequence
from pathlib import Path

from r1omni.model.backbone import Backbone
from r1omni.model.humanomni.backbone import load_humanomni


def load_backbone(checkpoint: Path, allow: Sequence[str] = ()) -> Backbone:
    """The backbone in a folder, in eval mode on the CPU.

    `allow` names surplus tensors that are left out. Raises ValueError naming the file, or the
    tensor that is missing, unexpected or of another shape.
    """
    return load_humanomni(checkpoint, allow)
