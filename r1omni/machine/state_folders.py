"""Where a stage's training states lie: one folder for each recipe, until the training is done."""

import errno
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from r1omni.machine.environment import is_first
from r1omni.machine.ranks import barrier
from r1omni.own_code import changed_code, refuse_changed_code

RECIPE = "recipe"  # the file of a state's folder that holds the whole fingerprint
FINISHED = "finished"  # the file that says: its checkpoint has been written

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPaths:
    """Where a training stage writes: its checkpoint, its curves, and its state until it is done.

    The state lies outside DVC's outputs, which DVC deletes before a stage runs. `state` is the
    stage's folder, which has a folder for each recipe (`open_state`).
    """

    checkpoint: Path
    training: Path
    state: Path


def open_state(paths: TrainingPaths, recipe: str) -> TrainingPaths:
    """The paths with the folder that holds this recipe's unfinished state, if there is one.

    Other recipes' folders stay as they are: whoever takes a changed value back goes on where they
    were (`prune_states`). All ranks call it; the first one makes the folder.
    """
    folder = paths.state / recipe[:12]
    if is_first():
        if not (folder / RECIPE).is_file():
            others = [other.name for other in _others(folder) if _saved_at(other) is not None]
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
    """Of other recipes' states beside `folder` keep the one that was saved last.

    Called when `folder` has a state of its own. Nothing on other ranks than the first.
    """
    if not is_first():
        return
    for left in folder.parent.glob(".*.gone"):  # by a kill while it was removed
        shutil.rmtree(left)
    saved = {other: _saved_at(other) for other in _others(folder)}
    last = max((at for at in saved.values() if at is not None), default=None)
    for other in [other for other, at in saved.items() if at is None or at != last]:
        _remove(other)


def drop_state(paths: TrainingPaths) -> None:
    """Remove the finished training's state: the checkpoint stands, and MLflow has all of it.

    Until then a kill costs no more than the steps since the last state, although DVC removes the
    outputs of a stage that it did not see end. Nothing on other ranks than the first. Raises
    CodeChanged where our code changed since the training started: DVC would note it as this code's.
    """
    if not is_first() or not paths.state.is_dir():
        return
    refuse_edits(paths, changed_code())
    for folder in [note.parent for note in paths.state.glob(f"*/{FINISHED}")]:
        prune_states(folder)
        _remove(folder)


def refuse_edits(paths: TrainingPaths, changed: list[str]) -> None:
    """Raise CodeChanged, which says what to do, where files of our code are named."""
    refuse_changed_code(
        changed,
        paths.training.name,
        "the training is not finished. Put the code back and run again to finish from its last "
        f"state ({paths.state}), or run again as it is to train anew",
    )


def _others(folder: Path) -> list[Path]:
    """The folders of other recipes beside this one."""
    found = [note.parent for note in folder.parent.glob(f"[!.]*/{RECIPE}")]
    return [other for other in found if other != folder]


def _saved_at(folder: Path) -> float | None:
    """When it last saved a training state, or a finished part of the base model; None if never."""
    saved = [*folder.glob("step-*"), *folder.glob("*.safetensors")]
    return max((path.stat().st_mtime for path in saved), default=None)


def _remove(folder: Path) -> None:
    """Remove it so that a kill in between leaves nothing that passes for a state."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def commit_folder(partial: Path, final: Path) -> None:
    """Put a finished folder in its place in one step; what stood there goes.

    From another disk it is copied beside its place first.
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
