"""Checkpoints read whole, ours or an original HumanOmni's, with an account of every tensor.

An original directory holds `config.json` (model_type `HumanOmni_qwen2`), its weights, and names the
folders or hub repositories of its three towers. Our tensor names are the originals', so nothing is
renamed but what versions of transformers spell differently. Tower weights inside the checkpoint are
preferred to those of the towers' own folders, which the original loader took: fine-tuned towers
were silently lost there.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from r1omni.model.configuration import PROJECTOR_TYPE, HumanOmniConfig
from r1omni.model.weights import find_directory, read_json, read_weights

ORIGINAL_MODEL_TYPE = "HumanOmni_qwen2"
LM_HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

REQUIRED_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
OPTIONAL_TEXT_KEYS = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "initializer_range",
    "max_window_layers",
    "rope_scaling",
    "sliding_window",
    "use_sliding_window",
)
# what the original code can be set to, and the one setting that all public checkpoints have
ONLY_SETTINGS = {
    "mm_projector_type": PROJECTOR_TYPE,
    "mm_audio_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
}

# tensors of an original checkpoint that its forward never reads, or that are buffers
UNUSED_IN_CHECKPOINT = re.compile(
    r"model\.audio_tower\.audio_tower\.(projector|classifier)\.(weight|bias)"
    r"|.*\.(rotary_emb\.inv_freq|embeddings\.position_ids|embeddings\.token_type_ids)"
)


@dataclass(frozen=True)
class Tower:
    """One of the three towers: where its tensors go, and how its own repository spells them."""

    prefix: str  # of its tensors in the model
    config_key: str  # of its place in the original config.json
    hub_id: str  # where the public checkpoints took it from
    strip: tuple[str, ...]  # prefixes in its own repository
    unused: re.Pattern[str]  # what its own repository holds besides


TOWERS = {
    "vision": Tower(
        "model.vision_tower.vision_tower.vision_model.",
        "mm_vision_tower",
        "google/siglip-base-patch16-224",
        ("vision_model.",),
        re.compile(r"text_model\..*|logit_(scale|bias)|.*position_ids"),
    ),
    "audio": Tower(
        "model.audio_tower.audio_tower.encoder.",
        "mm_audio_tower",
        "openai/whisper-large-v3",
        ("model.encoder.", "encoder."),
        re.compile(r"(model\.)?decoder\..*|proj_out\..*|(projector|classifier)\.(weight|bias)"),
    ),
    "gate": Tower(
        "model.bert_model.",
        "bert_path",
        "google-bert/bert-base-uncased",
        ("bert.",),
        re.compile(r"cls\..*|.*(position|token_type)_ids"),
    ),
}


@dataclass
class ConversionReport:
    """What became of every tensor: used ones with their file, unused ones with the reason, and
    casts from one precision to another.
    """

    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    towers: dict[str, str] = field(default_factory=dict)
    cast: dict[str, str] = field(default_factory=dict)

    def note_casts(self, read: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
        """Account for every tensor that the model holds in another precision than its file."""
        for name, tensor in read.items():
            before, after = (str(t.dtype).removeprefix("torch.") for t in (tensor, loaded[name]))
            if before != after:
                self.cast[name] = f"{before} to {after}"

    def render(self) -> str:
        """The account as text: used, cast, unused tensors by kind, towers, then every problem."""
        counts = (
            f"{len(self.used)} tensors used, {len(self.unused)} unused, {len(self.missing)} "
            f"missing, {len(self.unexpected)} unexpected, {len(self.reshaped)} reshaped"
        )
        used = Counter((_kind(name), file) for name, file in self.used.items())
        cast = Counter((_kind(name), kinds) for name, kinds in self.cast.items())
        unused = Counter((_kind(name), why) for name, why in self.unused.items())
        lines = [counts]
        lines += [f"used: {n} x {kind} from {file}" for (kind, file), n in used.items()]
        lines += [f"{tower} tower: {source}" for tower, source in self.towers.items()]
        lines += [f"cast: {n} x {kind} from {kinds}" for (kind, kinds), n in cast.items()]
        lines += [f"unused: {n} x {kind} ({why})" for (kind, why), n in unused.items()]
        return "\n".join(lines + self.problems())

    def problems(self) -> list[str]:
        """A line for every tensor that keeps the checkpoint from being loaded."""
        return (
            [f"missing tensor: {name}" for name in self.missing]
            + [f"unexpected tensor: {name}" for name in self.unexpected]
            + [f"reshaped tensor: {text}" for text in self.reshaped]
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the config, the tensors under our names, and the account of them."""

    directory: Path
    config: HumanOmniConfig
    tensors: Mapping[str, Tensor]
    report: ConversionReport


def read_checkpoint(
    path: str | PathLike[str],
    config: HumanOmniConfig | None = None,
    options: Mapping[str, Any] | None = None,
    allow: Collection[str] = (),
) -> Checkpoint:
    """The checkpoint in a folder or hub repository; `config` overrides the one that lies there.

    `options` are from_pretrained's for the hub. `allow` names tensors that are left out, whatever
    they are. Raises ValueError, naming the file.
    """
    directory = find_directory(path, options or {})
    settings = read_json(directory / "config.json")
    report = ConversionReport()
    tensors, files = read_weights(directory)
    if settings.get("model_type") == ORIGINAL_MODEL_TYPE:
        config = config or original_config(directory)
        tensors, files = _original_tensors(directory, settings, tensors, files, report)
    elif settings.get("model_type") != HumanOmniConfig.model_type:
        raise ValueError(
            f"{directory / 'config.json'}: model_type {settings.get('model_type')!r}; expected "
            f"{HumanOmniConfig.model_type!r} or {ORIGINAL_MODEL_TYPE!r}"
        )
    config = config or HumanOmniConfig.from_dict(settings)
    for name in [name for name in tensors if name in allow]:
        del tensors[name]
        report.unused[name] = "allowed by name"
    if config.tie_word_embeddings and LM_HEAD in tensors:
        head = tensors.pop(LM_HEAD)
        if EMBEDDING in tensors and not torch.equal(head, tensors[EMBEDDING]):
            raise ValueError(
                f"{directory / files[LM_HEAD]}: {LM_HEAD} differs from {EMBEDDING}, "
                "although config.json ties them"
            )
        report.unused[LM_HEAD] = "tied to the embeddings"
    report.used = {name: files[name] for name in sorted(tensors)}
    return Checkpoint(directory, config, tensors, report)


def check_tensors(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Nothing where the tensors are those of the model, by name and shape.

    Raises ValueError, naming every tensor that is missing, unexpected or of another shape.
    """
    report, tensors = checkpoint.report, checkpoint.tensors
    tied = {LM_HEAD} if checkpoint.config.tie_word_embeddings else set()
    report.missing = sorted(expected.keys() - tensors.keys() - tied)
    report.unexpected = [
        f"{n} in {report.used[n]}" for n in sorted(tensors.keys() - expected.keys())
    ]
    report.reshaped = [
        f"{name} in {report.used[name]} has shape {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems := report.problems():
        raise ValueError(f"{checkpoint.directory}: " + "\n".join(problems))


def original_config(directory: Path) -> HumanOmniConfig:
    """Our config for an original directory; the towers' own configs are read where it says.

    Raises ValueError, naming the file and the key, for a setting that is missing or unknown to us.
    """
    file = directory / "config.json"
    settings = read_json(file)
    for key, only in ONLY_SETTINGS.items():
        if settings.get(key, only) != only:
            raise ValueError(f"{file}: {key} is {settings[key]!r}; only {only!r} is supported")
    if missing := [key for key in REQUIRED_TEXT_KEYS if key not in settings]:
        raise ValueError(f"{file}: {missing[0]} is missing")
    keys = (*REQUIRED_TEXT_KEYS, *OPTIONAL_TEXT_KEYS)
    folders = {name: tower_directory(directory, settings, name, weights=False) for name in TOWERS}
    config = HumanOmniConfig(
        text_config=Qwen2Config(**{key: settings[key] for key in keys if key in settings}),
        vision_config=SiglipVisionConfig.from_pretrained(folders["vision"]),
        audio_config=WhisperConfig.from_pretrained(folders["audio"], encoder_layerdrop=0.0),
        gate_config=BertConfig.from_pretrained(folders["gate"]),
        vision_select_layer=settings.get("mm_vision_select_layer", -2),
        num_frames=settings.get("num_frames", 8),
        image_aspect_ratio=settings.get("image_aspect_ratio", "pad"),
        tie_word_embeddings=settings.get("tie_word_embeddings", False),
        bos_token_id=settings.get("bos_token_id"),
        eos_token_id=settings.get("eos_token_id"),
        pad_token_id=settings.get("pad_token_id"),
        dtype=settings.get("torch_dtype"),
    )
    for key, width in (
        ("mm_hidden_size", config.vision_config.hidden_size),
        ("audio_hidden_size", config.audio_config.d_model),
    ):
        if settings.get(key, width) != width:
            raise ValueError(f"{file}: {key} is {settings[key]}, but the tower's width is {width}")
    return config


def _original_tensors(
    directory: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    files: Mapping[str, str],
    report: ConversionReport,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and their files under our names, completed from the towers' own folders."""
    result: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for original, tensor in tensors.items():
        if UNUSED_IN_CHECKPOINT.fullmatch(original):
            report.unused[original] = "no part of the forward"
            continue
        name = _modern_name(original)
        if name in result:
            raise ValueError(f"{directory / files[original]}: {original} stands twice, as {name}")
        result[name], sources[name] = tensor, files[original]
    for tower_name, tower in TOWERS.items():
        if any(name.startswith(tower.prefix) for name in result):
            report.towers[tower_name] = "from the checkpoint itself"
            continue
        folder = tower_directory(directory, settings, tower_name, weights=True)
        report.towers[tower_name] = f"from {folder}"
        for original, tensor in read_weights(folder)[0].items():
            if tower.unused.fullmatch(original):
                report.unused[f"{folder.name}: {original}"] = "no part of the tower"
                continue
            bare = next(
                (original[len(p) :] for p in tower.strip if original.startswith(p)), original
            )
            name = _modern_name(tower.prefix + bare)
            result[name], sources[name] = tensor, str(folder)
    return result, sources


def _kind(name: str) -> str:
    """What a tensor belongs to: its name up to its third part, or less."""
    place, colon, bare = name.rpartition(": ")
    return f"{place}{colon}{'.'.join(bare.split('.')[:-1][:2]) or bare}"


def _modern_name(name: str) -> str:
    """The name as we spell it: no LayerNorm.gamma (old), SigLIP's vision_model. kept (new)."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return re.sub(
        r"^(model\.vision_tower\.vision_tower\.)(?!vision_model\.)", r"\1vision_model.", name
    )


def tower_directory(
    directory: Path, settings: Mapping[str, Any], tower_name: str, *, weights: bool
) -> Path:
    """The folder of a tower: as config.json says, beside the checkpoint, or from the hub.

    Public configs name folders of the machine that trained them; the last part of such a path is
    then looked for inside the checkpoint, beside it, and on the hub where it is the usual tower.
    """
    tower = TOWERS[tower_name]
    place = str(settings.get(tower.config_key) or tower.hub_id)
    name = Path(place).name
    for folder in (directory / place, Path(place), directory / name, directory.parent / name):
        if (folder / "config.json").is_file():
            return folder
    if name == Path(tower.hub_id).name:
        place = tower.hub_id
    try:
        return find_directory(place, {}, weights=weights)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {tower.config_key}: {error}") from error
