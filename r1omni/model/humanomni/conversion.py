"""Checkpoints read whole, ours or an original HumanOmni's, with an account of every tensor.

An original directory holds `config.json` (model_type `HumanOmni_qwen2`), its weights, and names the
folders or hub repositories of its three towers. Our tensor names are the originals', so nothing is
renamed but what versions of transformers spell differently. Tower weights inside the checkpoint are
preferred to those of the towers' own folders, which the original loader took: fine-tuned towers
were silently lost there.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1omni.model.conversion_report import ConversionReport
from r1omni.model.humanomni.configuration import HumanOmniConfig
from r1omni.model.humanomni.original_layout import (
    ORIGINAL_MODEL_TYPE,
    TOWERS,
    original_settings,
    tower_directory,
)
from r1omni.model.weights import find_directory, read_json, read_weights

LM_HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

# tensors of an original checkpoint that its forward never reads, or that are buffers
UNUSED_IN_CHECKPOINT = re.compile(
    r"model\.audio_tower\.audio_tower\.(projector|classifier)\.(weight|bias)"
    r"|.*\.(rotary_emb\.inv_freq|embeddings\.position_ids|embeddings\.token_type_ids)"
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
        config = config or HumanOmniConfig(**original_settings(directory))
        tensors, files = _original_tensors(directory, settings, tensors, files, report)
    elif settings.get("model_type") != HumanOmniConfig.model_type:
        raise ValueError(
            f"{directory / 'config.json'}: model_type {settings.get('model_type')!r}; expected "
            f"{HumanOmniConfig.model_type!r}, {ORIGINAL_MODEL_TYPE!r}, 'qwen2_5_omni' or "
            "'qwen2_5_omni_thinker'"
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
    tied = {LM_HEAD} if checkpoint.config.tie_word_embeddings else set()
    checkpoint.report.check(checkpoint.directory, checkpoint.tensors, expected, tied)


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


def _modern_name(name: str) -> str:
    """The name as we spell it: no LayerNorm.gamma (old), SigLIP's vision_model. kept (new)."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return re.sub(
        r"^(model\.vision_tower\.vision_tower\.)(?!vision_model\.)", r"\1vision_model.", name
    )
