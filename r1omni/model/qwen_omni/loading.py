"""A folder -> the backbone of Qwen2.5-Omni's thinker."""

from collections.abc import Sequence
from pathlib import Path

from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.qwen_omni.checkpoint import (
    load_thinker,
    read_media,
    read_processor_files,
)
from r1omni.model.tokenizers import read_tokenizer
from r1omni.model.weights import read_end_tokens


def load_qwen_omni(checkpoint: Path, allow: Sequence[str] = ()) -> QwenOmniBackbone:
    """The backbone in a folder: a whole Qwen2.5-Omni, a thinker's or ours (see `load_backbone`)."""
    model, read = load_thinker(checkpoint, allow)
    folder = read.directory
    backbone = QwenOmniBackbone(
        model,
        read_tokenizer(folder),
        read_media(read),
        read_processor_files(folder),
        read_end_tokens(folder),
    )
    if read.report.unused:
        backbone.conversion = read.report.render()
    return backbone
