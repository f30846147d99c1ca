"""A checkpoint in, a checkpoint out: what every training stage loads, and what it leaves behind."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r1omni.corpora.clip import Clip
from r1omni.lineage import (
    UNKNOWN,
    Origin,
    joint_origins,
    origin_record,
    read_lineage,
    read_provenance,
    write_provenance,
)
from r1omni.machine.curves import write_curves
from r1omni.machine.environment import is_first
from r1omni.machine.ranks import barrier, gather_patiently
from r1omni.machine.state_folders import FINISHED, TrainingPaths, move_into_place, refuse_edits
from r1omni.model.adapters import find_base, merge, put_on, save_adapter
from r1omni.model.backbone import Backbone
from r1omni.model.loading import load_backbone
from r1omni.own_code import changed_code, changed_files, code_hash
from r1omni.prompts import AnswerMode
from r1omni.section import Section
from r1omni.training_config import AdapterParams

CURVES, ROLLOUTS = "curves.jsonl", "rollouts.parquet"
TIMES = "times.jsonl"  # beside the states: the seconds of the last training that was finished


def load_parent(checkpoint: Path, adapter: AdapterParams | None = None, seed: int = 0) -> Backbone:
    """The checkpoint's backbone, with what the recipe doesn't train frozen.

    With an `adapter` that alone is trained: the checkpoint's own goes on, else a fresh one is drawn
    by `seed`. Without, an adapter of the checkpoint becomes part of its weights. Raises ValueError
    for a checkpoint with another adapter.
    """
    backbone = load_backbone(checkpoint)
    if adapter is None:
        if backbone.adapter is not None:
            merge(backbone)
        backbone.freeze()
    elif backbone.adapter is None:
        put_on(backbone, adapter, seed)
    elif backbone.adapter != adapter:
        raise ValueError(
            f"{checkpoint}: has the adapter {backbone.adapter.recipe()}, and engine.adapter is "
            f"{adapter.recipe()}: make them equal, or merge the checkpoint first (`r1omni merge`)"
        )
    return backbone


def one_fold(clips: Sequence[Clip], parent: Path | None) -> int | None:
    """The fold of all clips and of all ancestors; None where no corpus has folds.

    Raises ValueError where folds are mixed: every test clip of one fold is a training clip of the
    others (five-fold cross-validation, in DFEW and in MAFW).
    """
    folds = {clip.fold for clip in clips if clip.fold is not None}
    record = (read_provenance(parent) if parent is not None else None) or {}
    while record:
        if record.get("fold") is not None:
            folds.add(int(record["fold"]))
        record = record.get("parent") or {}
    if len(folds) > 1:
        raise ValueError(
            f"folds {sorted(folds)} are mixed (parent checkpoint: {parent}); a test clip of one "
            "fold is a training clip of the others: use one fold per run"
        )
    return next(iter(folds), None)


def save_checkpoint(
    backbone: Backbone,
    paths: TrainingPaths,
    *,
    stage_params: Section,
    mode: AnswerMode,
    parent: Path | None,
    clips: Sequence[Clip],
    data: Mapping[str, Origin],
    further: Sequence[Section] = (),
    users_code: Mapping[Path, str] = MappingProxyType({}),
) -> None:
    """Write the checkpoint and the training record, each in one step; the state stays.

    `data` is the origin of every corpus that it was trained on, `further` the sections of params
    that decided its numbers besides the stage's own, `users_code` the user's files that did, with
    their hashes at the start (`file_hashes`). All ranks call it; the first one writes, and the
    others wait for it. Raises CodeChanged, on every rank and before anything is written, where our
    code or the user's changed since the training started.
    """
    _refuse_changed_code(paths, users_code)
    if is_first():
        _write_checkpoint(
            backbone,
            paths,
            stage_params=stage_params,
            mode=mode,
            parent=parent,
            clips=clips,
            data=data,
            further=further,
        )
    barrier()


def await_checkpoint(paths: TrainingPaths) -> None:
    """What the other ranks call where only the first has a checkpoint to save, however long."""
    _refuse_changed_code(paths, {})
    barrier()


def _refuse_changed_code(paths: TrainingPaths, users_code: Mapping[Path, str]) -> None:
    own = [*changed_code(), *changed_files(users_code)]
    changed = {name for names in gather_patiently(own) for name in names}
    refuse_edits(paths, sorted(changed))


def _write_checkpoint(
    backbone: Backbone,
    paths: TrainingPaths,
    *,
    stage_params: Section,
    mode: AnswerMode,
    parent: Path | None,
    clips: Sequence[Clip],
    data: Mapping[str, Origin],
    further: Sequence[Section],
) -> None:
    counts: dict[str, int] = {}
    for clip in clips:
        if clip.split == "train":
            counts[clip.corpus] = counts.get(clip.corpus, 0) + 1
    record: dict[str, Any] = {
        "stage": paths.checkpoint.name,
        "mode": mode,
        "fold": one_fold(clips, parent),
        "seed": getattr(stage_params, "seed", None),
        "params": stage_params.recipe(),
        "code": code_hash()[:12],
        "params_hash": _params_hash([stage_params, *further], parent),
        "parameters": backbone.sizes(),
        "data": {name: origin_record(o) for name, o in _all_data(data, parent).items()},
        "parent": (read_provenance(parent) or {}) if parent is not None else None,
        "trained_on": counts,
    }
    backbone.answer_mode = mode
    partial = paths.state / "checkpoint"
    shutil.rmtree(partial, ignore_errors=True)
    base = find_base(parent) if parent is not None else None
    if backbone.adapter is None:
        backbone.save(partial, base)
    else:
        assert base is not None
        record |= save_adapter(backbone, partial, base, paths.checkpoint)
    write_provenance(partial, record)
    training = paths.state / "training"
    shutil.rmtree(training, ignore_errors=True)
    training.mkdir()
    if (paths.state / CURVES).exists():
        write_curves(paths.state / CURVES, training / CURVES, paths.state.with_name(TIMES))
    if (paths.state / ROLLOUTS).exists():
        shutil.copy2(paths.state / ROLLOUTS, training / ROLLOUTS)
    move_into_place(training, paths.training)
    move_into_place(partial, paths.checkpoint)
    (paths.state / FINISHED).touch()


def _params_hash(sections: Sequence[Section], parent: Path | None) -> str:
    """A hash of the recipe of this checkpoint and of all its ancestors."""
    inherited = read_lineage(parent) if parent is not None else None
    before = None if inherited is None else inherited.params_hash
    recipes = [[type(section).__name__, section.recipe()] for section in sections]
    text = json.dumps([recipes, before], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _all_data(data: Mapping[str, Origin], parent: Path | None) -> dict[str, Origin]:
    """The origin of every corpus that the checkpoint or an ancestor of it was trained on."""
    if parent is None:
        return dict(data)
    lineage = read_lineage(parent)
    inherited = {} if lineage is None else lineage.data
    return joint_origins([*data.items(), *(inherited or {parent.name: UNKNOWN}).items()])
