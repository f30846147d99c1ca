"""A folder -> the backbone of Qwen2.5-Omni's thinker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1omni.media import QwenMedia
from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.qwen_omni.checkpoint import (
    ReadThinker,
    load_thinker,
    read_media,
    read_processor_files,
)
from r1omni.model.tokenizers import read_tokenizer
from r1omni.model.weights import read_end_tokens


def load_qwen_omni(checkpoint: Path, allow: Sequence[str] = ()) -> QwenOmniBackbone:
    """The backbone in a folder: a whole Qwen2.5-Omni, a thinker's or ours (see `load_backbone`)."""
    model, read = load_thinker(checkpoint, allow)
    backbone = join(model, read, read_media(read))
    if read.report.unused:
        backbone.conversion = read.report.render()
    return backbone


def join(model: Any, read: ReadThinker, media: QwenMedia) -> QwenOmniBackbone:
    """The loaded thinker with the tokenizer in its folder.

    Raises ValueError, naming the folder, where tokenizer or media settings are another model's.
    """
    folder = read.directory
    tokenizer, ends = read_tokenizer(folder), read_end_tokens(folder)
    try:
        return QwenOmniBackbone(model, tokenizer, media, read_processor_files(folder), ends)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
