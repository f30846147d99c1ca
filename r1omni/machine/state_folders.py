"""The folders of a stage's training states: one per recipe, until the training has finished."""

import errno
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from r1omni.machine.environment import is_first
from r1omni.machine.ranks import barrier
from r1omni.own_code import changed_code, refuse_changed_code

RECIPE = "recipe"  # the file in a recipe's folder with the whole fingerprint
FINISHED = "finished"  # an empty file: the checkpoint has been written

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPaths:
    """The folders that a training stage writes: checkpoint, curves, and states until it finishes.

    `state` lies outside DVC's outputs, because DVC deletes those before a stage runs. It has a
    folder for each recipe (`open_state`).
    """

    checkpoint: Path
    training: Path
    state: Path


def open_state(paths: TrainingPaths, recipe: str) -> TrainingPaths:
    """The paths with `state` set to this recipe's folder, which may hold an unfinished state.

    Other recipes' folders stay: who restores the earlier params continues that training
    (`prune_states`). All ranks call it; rank 0 makes the folder.
    """
    folder = paths.state / recipe[:12]
    if is_first():
        if not (folder / RECIPE).is_file():
            others = [other.name for other in _siblings(folder) if _saved_at(other) is not None]
            if others:
                logger.info(
                    "%s: the recipe or its inputs changed: not resuming the state of %s, which "
                    "stays until this training has saved one",
                    paths.training.name,
                    ", ".join(others),
                )
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECIPE).write_text(recipe, encoding="utf-8")
        (folder / FINISHED).unlink(missing_ok=True)
    barrier()
    return replace(paths, state=folder)


def prune_states(folder: Path) -> None:
    """Remove the other recipes' folders beside `folder`, except the one that was saved last.

    Called once `folder` has a state of its own. Only rank 0 acts.
    """
    if not is_first():
        return
    for left in folder.parent.glob(".*.gone"):  # a kill interrupted their removal
        shutil.rmtree(left)
    saved = {other: _saved_at(other) for other in _siblings(folder)}
    last = max((at for at in saved.values() if at is not None), default=None)
    for other in [other for other, at in saved.items() if at is None or at != last]:
        _remove(other)


def remove_finished_states(paths: TrainingPaths) -> None:
    """Remove the states of finished trainings: the checkpoint is written and MLflow has the curves.

    Until then a kill costs only the steps since the last state, although DVC removes the outputs of
    a stage that did not finish. Only rank 0 acts. Raises CodeChanged if our code changed since the
    training started, because DVC would record the outputs as made by the new code.
    """
    if not is_first() or not paths.state.is_dir():
        return
    refuse_edits(paths, changed_code())
    for folder in [note.parent for note in paths.state.glob(f"*/{FINISHED}")]:
        prune_states(folder)
        _remove(folder)


def refuse_edits(paths: TrainingPaths, changed: list[str]) -> None:
    """Raise CodeChanged, which says what to do next, if `changed` names any file."""
    refuse_changed_code(
        changed,
        paths.training.name,
        "the training is not finished. Put the code back and run again to finish from its last "
        f"state ({paths.state}), or run again with the new code to train from the start",
    )


def _siblings(folder: Path) -> list[Path]:
    """The folders of other recipes beside this one."""
    found = [note.parent for note in folder.parent.glob(f"[!.]*/{RECIPE}")]
    return [other for other in found if other != folder]


def _saved_at(folder: Path) -> float | None:
    """The time of the folder's last training state or part of the base model; None without one."""
    saved = [*folder.glob("step-*"), *folder.glob("*.safetensors")]
    return max((path.stat().st_mtime for path in saved), default=None)


def _remove(folder: Path) -> None:
    """Remove a folder; a kill in between leaves nothing that looks like a state."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def move_into_place(partial: Path, final: Path) -> None:
    """Rename a complete folder to `final`, which is replaced.

    From another disk it is first copied to a folder beside `final`.
    """
    shutil.rmtree(final, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = final.with_name(f".{final.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(partial, beside)
        beside.rename(final)
        shutil.rmtree(partial)
