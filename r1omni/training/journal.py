"""What a training stage has written so far: its curves, and where a killed run continues."""

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r1omni.config import Section
from r1omni.own_code import changed_code, code_hash, refuse_changed_code
from r1omni.training.ranks import barrier, is_first

Log = Callable[[int, Mapping[str, float]], None]
RECIPE = "recipe"  # the file of a state's folder that holds the whole fingerprint
FINISHED = "finished"  # the file that says: its checkpoint has been written
TIME = "time/"  # metrics that no two runs share: they go to MLflow and the state, to no output

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


def fingerprint(sections: Iterable[Section], inputs: Iterable[Path]) -> str:
    """A hash of recipe, input files and our code: only where it is the same a state is resumed.

    What changes time and memory alone (Section.KNOBS) is no part of it.
    """
    digest = hashlib.sha256(code_hash().encode())
    for section in sections:
        digest.update(json.dumps(section.recipe()).encode())
    for path in inputs:
        for file in sorted(
            p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()
        ):
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


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


class Curves:
    """Metrics by step in a JSON-lines file: {"step": 1, "train/loss": 0.7, …}.

    Written by the first rank alone. The file is also the spool of what the log could not deliver:
    it outlives a kill, and `rewind` hands it on again. A step that is repeated after a kill stands
    there twice; its last row counts (`read_curves`).
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log

    def rewind(self, step: int) -> None:
        """Tell the log what was written up to `step`; later rows stay until they are repeated."""
        if not is_first():
            return
        rows = read_curves(self._path)
        _write_rows(self._path, rows)  # without a last line that a kill has cut short
        for row in rows:
            if row["step"] <= step:
                self._log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics and hand them on."""
        if not is_first():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._log(step, metrics)


def read_curves(path: Path) -> list[dict[str, float]]:
    """The rows of a curves file, one a step; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows: dict[float, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def write_curves(path: Path, out: Path, times: Path) -> None:
    """Part the curves: to `out` what equal trainings share, to `times` the seconds."""
    rows = read_curves(path)
    timed = {key for row in rows for key in row if key.startswith(TIME)}
    _write_rows(out, [{k: v for k, v in row.items() if k not in timed} for row in rows])
    _write_rows(times, [{k: v for k, v in row.items() if k in {"step", *timed}} for row in rows])


def _write_rows(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def write_provenance(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """Write provenance.json: which stage, mode, fold, seed, recipe, code and parent made it."""
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (checkpoint / "provenance.json").write_text(text, encoding="utf-8")


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    """The provenance of a checkpoint; empty for one that another program made."""
    path = checkpoint / "provenance.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record


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
