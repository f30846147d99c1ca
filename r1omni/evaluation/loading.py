"""Checkpoints by folder, hub id or registry name, and the way in which they are asked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from r1omni.config import TrackingParams
from r1omni.corpora.clip import Clip
from r1omni.lineage import PROVENANCE, Lineage, read_lineage, read_provenance
from r1omni.machine.device import Device, own_device
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.conversion import ORIGINAL_MODEL_TYPE, read_checkpoint
from r1omni.model.weights import find_directory, read_json
from r1omni.prompts import AnswerMode

# Corpora that list the clips of another one, in the same folds.
_SAME_CLIPS: Final[Mapping[str, str]] = {"mafw_compound": "mafw"}


def find_checkpoint(model: str, tracking: TrackingParams | None) -> Path:
    """The local folder of `model`: a folder, a hub id, or "models:/name@alias" of the registry.

    Raises ValueError for what is none of them; tracking.StoreUnreachable.
    """
    if model.startswith("models:/"):
        if tracking is None:
            raise ValueError(
                f"{model}: no params.yaml here says where MLflow's registry is; run this in the "
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
) -> tuple[HumanOmniForConditionalGeneration, HumanOmniProcessor]:
    """The checkpoint's model on `device`, and its processor.

    `mode` None: as the checkpoint records it. `allow` names surplus tensors that are left out. What
    became of an original checkpoint's tensors is said on standard error. Raises ValueError for a
    checkpoint whose tensors are not the model's, for an original one without a `mode` (its
    config.json does not say how it was taught to answer), and for cuda where there is none.
    """
    is_original = read_json(directory / "config.json").get("model_type") == ORIGINAL_MODEL_TYPE
    if mode is None and is_original:
        raise ValueError(
            f"{directory / 'config.json'}: does not say how this checkpoint answers; pass --mode "
            "reasoned (EMER-SFT, R1-Omni) or --mode direct (HumanOmni, MAFW-DFEW-SFT)"
        )
    checkpoint = read_checkpoint(directory, allow=allow)
    model = HumanOmniForConditionalGeneration.from_checkpoint(checkpoint).eval()
    if is_original:
        _say(f"{directory}: {checkpoint.report.render()}")
    if mode is not None:
        recorded = recorded_mode(directory)
        if recorded not in (None, mode):
            _say(
                f"WARNING: {directory} records that it answers {recorded}, and is asked {mode}: it "
                "was not taught that form, so a low accuracy may say nothing of what it recognises"
            )
        model.config.answer_mode = mode
    model.to(own_device(device))
    return model, HumanOmniProcessor.from_pretrained(directory)


def recorded_mode(directory: Path) -> AnswerMode | None:
    """How a checkpoint records that it answers; None where it does not say."""
    config = read_json(directory / "config.json")
    mode: AnswerMode | None = config.get("answer_mode")
    return mode


def lineage_of(directory: Path) -> Lineage:
    """What is known about a checkpoint; nothing but its mode for one without our provenance."""
    known = read_lineage(directory) or Lineage(data={})
    return replace(known, mode=recorded_mode(directory))


def _say(line: str) -> None:
    Console(stderr=True).print(line, soft_wrap=True, markup=False, highlight=False)


def refuse_training_clips(directory: Path, clips: Iterable[Clip]) -> None:
    """Raise ValueError if the checkpoint or an ancestor of it may have been trained on a clip.

    A checkpoint of fold k has seen the test clips of every other fold (facts/datasets.md).
    mafw_compound and mafw list the same clips. A checkpoint without a record of its training is let
    through: `trained_on` is None for it.
    """
    seen = trained_on(directory) or {}
    for corpus, fold in sorted({(clip.corpus, clip.fold) for clip in clips}, key=str):
        folds = seen.get(_SAME_CLIPS.get(corpus, corpus), set())
        if folds and (fold is None or folds != {fold}):
            named = " and ".join(sorted(map(str, folds)))
            advice = f"evaluate it on fold {named}, or " if len(folds) == 1 else ""
            raise ValueError(
                f"{directory}: was trained on fold {named} of {corpus}, so test clips of fold "
                f"{fold} are among its training clips; {advice}train one on fold {fold}"
            )


def trained_on(directory: Path) -> dict[str, set[int | None]] | None:
    """Corpus -> folds of all training clips of a checkpoint and its ancestors; None: not recorded.

    mafw_compound is counted as mafw, whose clips it lists.
    Raises ValueError, naming the file, for a provenance.json that is not one.
    """
    record = read_provenance(directory)
    if record is None:
        return None
    found: dict[str, set[int | None]] = {}
    while record:
        corpora, parent = record.get("trained_on") or {}, record.get("parent") or {}
        if not isinstance(corpora, dict) or not isinstance(parent, dict):
            file = directory / PROVENANCE
            raise ValueError(f"{file}: expected objects for trained_on and parent, got {record}")
        for corpus in corpora:
            found.setdefault(_SAME_CLIPS.get(corpus, corpus), set()).add(record.get("fold"))
        record = parent
    return found
