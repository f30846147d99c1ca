"""A checkpoint's folder -> its backbone, whichever that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from r1omni.model.adapters import find_base, is_adapter, load_adapter
from r1omni.model.backbone import Backbone
from r1omni.model.humanomni.backbone import load_humanomni
from r1omni.model.weights import find_directory, read_json

QWEN_OMNI: Final = ("qwen2_5_omni", "qwen2_5_omni_thinker")  # a whole one, a thinker


def load_backbone(
    checkpoint: Path, allow: Sequence[str] = (), base: Path | None = None
) -> Backbone:
    """The backbone in a folder, in eval mode on the CPU.

    `allow` names surplus tensors that are left out; `base` is where an adapter's base lies, if not
    where the adapter says. Raises ValueError naming the file, or the tensor that is missing,
    unexpected or of another shape, and for another base than the adapter's.
    """
    directory = find_directory(checkpoint, {}, weights=False)
    if is_adapter(directory):
        directory = find_directory(checkpoint, {})
        backbone = load_backbone(find_base(directory, base), allow)
        load_adapter(backbone, directory)
        return backbone
    if read_json(directory / "config.json").get("model_type") in QWEN_OMNI:
        # imported where it is needed: transformers' module takes a second
        from r1omni.model.qwen_omni.loading import load_qwen_omni

        return load_qwen_omni(checkpoint, allow)
    return load_humanomni(checkpoint, allow)
