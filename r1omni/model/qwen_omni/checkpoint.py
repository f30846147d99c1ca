"""Qwen2.5-Omni's checkpoints: whole ones, a thinker's alone, and ours, every tensor accounted for.

transformers initialises at random what a checkpoint lacks, with a warning. Here each missing,
surplus, reshaped or twice-spelled tensor is a ValueError by its name. Of a whole checkpoint the
talker and its vocoder are left out. Safetensors alone are read, and no code from a checkpoint.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
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
from r1omni.model.weights import (
    GENERATION_FILE,
    SAFETENSORS,
    find_directory,
    read_json,
    read_weights,
)

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
TOWERS: Final = ("visual", "audio_tower")  # with merger and projector inside
DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
TIED: Final = "tie_word_embeddings"
LM_HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
_LEFT_OUT: Final = ("talker.", "token2wav.")
_OLD_NAMES: Final = (  # of transformers before 5, which the public checkpoints have
    (re.compile(r"^(audio_tower|visual)\."), r"model.\1."),
    (re.compile(r"^model\.(layers|embed_tokens|norm)\."), r"model.language_model.\1."),
)
PUBLIC_SECTION: Final = (16, 24, 24)  # mrope_section where config.json has none, in transformers
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
    model = _build(config, read.directory)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    read.report.check(read.directory, tensors, expected)
    _check_precisions(read)
    model.load_state_dict(tensors, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    if (read.directory / GENERATION_FILE).is_file():
        read_json(read.directory / GENERATION_FILE)  # raises ValueError naming a damaged file
        model.generation_config = GenerationConfig.from_pretrained(read.directory)
    return model.eval(), read


def _check_precisions(read: ReadThinker) -> None:
    """Raise ValueError, naming the tensors, where one cannot be computed with those around it."""
    first: dict[str, str] = {}  # tower, or the language model with its head -> its first tensor
    for name, tensor in read.tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{read.directory}: {name} has the precision {tensor.dtype}: quantised weights are "
                "not read, take the checkpoint in float32, bfloat16 or float16"
            )
        part = next((part for part in TOWERS if part in name.split(".")), "")
        other = first.setdefault(part, name)
        if tensor.dtype != read.tensors[other].dtype:
            raise ValueError(
                f"{read.directory}: {name} is {tensor.dtype}, {other} is "
                f"{read.tensors[other].dtype}: save both in one precision"
            )


def _build(config: Qwen2_5OmniThinkerConfig, directory: Path) -> Any:
    """The model without weights. Raises ValueError, naming the file, for sizes that make none."""
    try:
        with initialization.no_init_weights():
            return Qwen2_5OmniThinkerForConditionalGeneration(config)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{directory / 'config.json'}: transformers cannot build it: {error!r}"
        ) from error


def _thinker_config(read: ReadThinker) -> Qwen2_5OmniThinkerConfig:
    """Raises ValueError, naming the file, where a part is missing: its values would be the 7B's."""
    file = read.directory / "config.json"
    for part in ("audio_config", "text_config", "vision_config"):
        if not isinstance(read.settings.get(part), dict):
            raise ValueError(f"{file}: {part} is missing")
    try:
        config = Qwen2_5OmniThinkerConfig.from_dict(read.settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: transformers cannot take it: {reason}") from error
    text, vision = config.text_config, config.vision_config
    section = text.rope_parameters.get("mrope_section", PUBLIC_SECTION)
    if sum(section) * 2 * text.num_attention_heads != text.hidden_size:
        raise ValueError(
            f"{file}: text_config: mrope_section {section} does not fit hidden_size "
            f"{text.hidden_size} and num_attention_heads {text.num_attention_heads}"
        )
    if vision.num_heads < 1 or vision.hidden_size % vision.num_heads:
        raise ValueError(
            f"{file}: vision_config: hidden_size {vision.hidden_size} is no multiple of num_heads "
            f"{vision.num_heads}"
        )
    return config


def read_media(read: ReadThinker) -> QwenMedia:
    """The media settings that a checkpoint records, or the public checkpoints'.

    Raises ValueError, naming the file, for settings that are none, and for one that we do not know.
    """
    recorded = read.settings.get(MEDIA_KEY)
    if recorded is None:
        return PUBLIC_MEDIA
    place = f"{read.directory / 'config.json'}: {MEDIA_KEY}"
    try:
        media = TypeAdapter(QwenMedia).validate_python(recorded)
    except ValidationError as error:
        raise ValueError(f"{place}: {error}") from error
    if unknown := sorted(recorded.keys() - asdict(media).keys()):
        raise ValueError(f"{place}: {unknown[0]} is no setting; known: {', '.join(asdict(media))}")
    return media


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
