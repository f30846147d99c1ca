"""Qwen2.5-Omni's checkpoints: whole ones, a thinker's alone, and ours, every tensor accounted for.

transformers initialises at random what a checkpoint lacks, with a warning. Here each missing,
surplus, reshaped or twice-spelled tensor is a ValueError by its name. Of a whole checkpoint the
talker and its vocoder are left out. Safetensors alone are read, and no code from a checkpoint.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import (
    GenerationConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    initialization,
)

from r1omni.media import QwenMedia
from r1omni.model.conversion_report import ConversionReport
from r1omni.model.weights import SAFETENSORS, find_directory, read_json, read_weights

WHOLE: Final = "qwen2_5_omni"  # a checkpoint's model_type; "qwen2_5_omni_thinker" is the other
MEDIA_KEY: Final = "r1omni_media"  # of our media settings in config.json
PROCESSOR_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
TIED: Final = "tie_word_embeddings"
LM_HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
_LEFT_OUT: Final = ("talker.", "token2wav.")
_OLD_NAMES: Final = (  # of transformers before 5, which the public checkpoints have
    (re.compile(r"^(audio_tower|visual)\."), r"model.\1."),
    (re.compile(r"^model\.(layers|embed_tokens|norm)\."), r"model.language_model.\1."),
)
# The paper's 8 frames and its 30 s of sound; 256 tokens a frame at most (modelscope/ms-swift#5784)
PUBLIC_MEDIA: Final = QwenMedia(8, 56 * 56, 256 * 28 * 28, "time", 16000, 30.0)


@dataclass(frozen=True)
class ReadThinker:
    """A thinker's tensors under transformers' names, with its settings and the account."""

    directory: Path
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    report: ConversionReport


def read_tensors(
    checkpoint: Path,
    allow: Collection[str] = (),
    wanted: Callable[[str], bool] = lambda name: True,
) -> ReadThinker:
    """The thinker's `wanted` tensors in a folder or hub repository, whatever layout that has.

    `allow` names tensors that are left out. Raises ValueError, naming the file, for a tensor that
    stands there twice and for a checkpoint without safetensors.
    """
    directory = find_directory(checkpoint, {})
    if not any((directory / name).is_file() for name in SAFETENSORS):
        raise ValueError(f"{directory}: no {SAFETENSORS[1]}: only safetensors are read")
    settings = read_json(directory / "config.json")
    whole = settings.get("model_type") == WHOLE
    report = ConversionReport()

    def is_wanted(name: str) -> bool:
        if name in allow:
            report.unused[name] = "allowed by name"
        elif whole and name.startswith(_LEFT_OUT):
            report.unused[name] = "the recipe trains the thinker"
        return name not in report.unused and wanted(_own_name(name))

    found, files = read_weights(directory, is_wanted)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        own = _own_name(name)
        if own in tensors:
            raise ValueError(f"{directory / files[name]}: {name} stands twice, as {own}")
        tensors[own], report.used[own] = tensor, files[name]
    if whole:
        config = directory / "config.json"
        settings = settings.get("thinker_config") or {}
        if not isinstance(settings, dict) or not settings:
            raise ValueError(f"{config}: thinker_config is missing")
    return ReadThinker(directory, settings, tensors, report)


def load_thinker(checkpoint: Path, allow: Collection[str] = ()) -> tuple[Any, ReadThinker]:
    """transformers' thinker in eval mode on the CPU, each tensor in its file's precision.

    Raises ValueError, naming every tensor that is missing, unexpected or of another shape.
    """
    read = read_tensors(checkpoint, allow)
    config, tensors = _thinker_config(read), read.tensors
    if config.tie_word_embeddings and EMBEDDING in tensors:
        head = tensors.setdefault(LM_HEAD, tensors[EMBEDDING])
        read.report.used.setdefault(LM_HEAD, read.report.used[EMBEDDING])
        if not torch.equal(head, tensors[EMBEDDING]):
            raise ValueError(f"{read.directory}: {LM_HEAD} differs from {EMBEDDING}, although tied")
    elif LM_HEAD not in tensors and (read.settings.get("text_config") or {}).get(TIED):
        raise ValueError(
            f"{read.directory}: missing tensor: {LM_HEAD}; config.json ties it in text_config, "
            f"which transformers does not read: set {TIED} beside text_config"
        )
    with initialization.no_init_weights():
        model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    read.report.check(read.directory, tensors, expected)
    model.load_state_dict(tensors, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    if (read.directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(read.directory)
    return model.eval(), read


def _thinker_config(read: ReadThinker) -> Qwen2_5OmniThinkerConfig:
    """Raises ValueError, naming the file, where a part is missing: its values would be the 7B's."""
    file = read.directory / "config.json"
    for part in ("audio_config", "text_config", "vision_config"):
        if not isinstance(read.settings.get(part), dict):
            raise ValueError(f"{file}: {part} is missing")
    try:
        return Qwen2_5OmniThinkerConfig.from_dict(read.settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: transformers cannot take it: {reason}") from error


def read_media(read: ReadThinker) -> QwenMedia:
    """The media settings that a checkpoint records, or the public checkpoints'.

    Raises ValueError, naming the file, for settings that are none.
    """
    recorded = read.settings.get(MEDIA_KEY)
    if recorded is None:
        return PUBLIC_MEDIA
    try:
        return TypeAdapter(QwenMedia).validate_python(recorded)
    except ValidationError as error:
        raise ValueError(f"{read.directory / 'config.json'}: {MEDIA_KEY}: {error}") from error


def read_processor_files(directory: Path) -> dict[str, bytes]:
    """The tokenizer's and the processor's files, by name."""
    found = (directory / name for name in PROCESSOR_FILES)
    return {path.name: path.read_bytes() for path in found if path.is_file()}


def _own_name(name: str) -> str:
    """The name in transformers' thinker, of a tensor in whichever layout."""
    name = name.removeprefix("thinker.")
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name
