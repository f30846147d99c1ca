"""Checkpoints by folder, hub id or registry name, and the way in which they are asked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from r1omni.config import TrackingParams
from r1omni.lineage import Lineage, read_lineage
from r1omni.machine.device import Device, own_device
from r1omni.model.backbone import Backbone
from r1omni.model.loading import load_backbone
from r1omni.model.weights import find_directory, read_mode
from r1omni.prompts import AnswerMode


def find_checkpoint(model: str, tracking: TrackingParams | None) -> Path:
    """The local folder of `model`: a folder, a hub id, or "models:/name@alias" of the registry.

    Raises ValueError for what is none of them; tracking.StoreUnreachable.
    """
    if model.startswith("models:/"):
        if tracking is None:
            raise ValueError(
                f"{model}: there is no params.yaml here to name MLflow's registry; run this in the "
                "project's folder, pass --params FILE, or pass the checkpoint's folder as --model"
            )
        from r1omni.tracking.registry import model_directory

        return model_directory(model, tracking)
    try:
        return find_directory(model, {})
    except ValueError as error:
        raise ValueError(
            f"{error}, nor models:/NAME@ALIAS. Pass one of them as --model; in the project's "
            "folder `r1omni repro` trains a checkpoint into data/checkpoints/grpo"
        ) from error


def load_checkpoint(
    directory: Path,
    mode: AnswerMode | None = None,
    allow: Sequence[str] = (),
    device: Device = "auto",
    base: Path | None = None,
) -> Backbone:
    """The checkpoint's backbone on `device`.

    `mode` None: as the checkpoint records it. `allow` and `base` as in `load_backbone`. What became
    of an original checkpoint's tensors is printed on standard error. Raises ValueError for a
    checkpoint whose tensors are not the model's, for an original one without a `mode` (its
    config.json does not say how it was taught to answer), and for cuda where there is none.
    """
    recorded = read_mode(directory)
    if mode is None and recorded is None:
        raise ValueError(
            f"{directory / 'config.json'}: does not say how this checkpoint answers; pass --mode "
            "reasoned (EMER-SFT, R1-Omni) or --mode direct (HumanOmni, MAFW-DFEW-SFT)"
        )
    backbone = load_backbone(directory, allow, base)
    if backbone.conversion is not None:
        _print(f"{directory}: {backbone.conversion}")
    if mode is not None:
        if recorded not in (None, mode):
            _print(
                f"WARNING: {directory} records that it answers {recorded}, and is asked {mode}: it "
                "was not taught that form, so a low accuracy may say nothing of what it recognises"
            )
        backbone.answer_mode = mode
    backbone.module.to(own_device(device))
    return backbone


def lineage_of(directory: Path) -> Lineage:
    """What is known about a checkpoint; nothing but its mode for one without our provenance."""
    known = read_lineage(directory) or Lineage(data={})
    return replace(known, mode=read_mode(directory))


def _print(line: str) -> None:
    Console(stderr=True).print(line, soft_wrap=True, markup=False, highlight=False)
