"""What a training stage has written so far: its curves, and where a killed run continues."""

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from r1omni.training.ranks import barrier, is_first

Log = Callable[[int, Mapping[str, float]], None]
# What can change a training's result; not the commands, nor evaluation and tracking.
RECIPE_CODE = (
    "model/*.py",
    "training/*.py",
    "corpora/clip.py",
    "corpora/synthetic/attributes.py",
    "completions.py",
    "decoding.py",
    "emotions.py",
    "judging.py",
    "media/*.py",
    "prompts.py",
    "rewards.py",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPaths:
    """Where a training stage writes: its checkpoint, its curves, and its state until it is done.

    The state lies outside DVC's outputs, which DVC deletes before a stage runs.
    """

    checkpoint: Path
    training: Path
    state: Path


def fingerprint(sections: Iterable[BaseModel], inputs: Iterable[Path]) -> str:
    """A hash of params, input files and our code: a changed recipe must not resume an old state."""
    digest = hashlib.sha256(code_hash().encode())
    for section in sections:
        digest.update(section.model_dump_json().encode())
    for path in inputs:
        for file in sorted(
            p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()
        ):
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def code_hash() -> str:
    """A hash of our own code that decides a training's result."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in sorted(file for pattern in RECIPE_CODE for file in package.glob(pattern)):
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def open_state(folder: Path, recipe: str) -> None:
    """Have `folder` hold this recipe's unfinished state, if there is one; another's is put aside.

    Beside the folder one state is kept, of the last other recipe that had saved one: whoever takes
    a changed value back goes on where they were. All ranks call it; the first one acts, and the
    others look at nothing before it has (a shared disk would remember what they saw).
    """
    if is_first():
        _open_state(folder, folder.with_name(f"{folder.name}.aside"), recipe)
    barrier()


def _open_state(folder: Path, aside: Path, recipe: str) -> None:
    coming = folder.with_name(f".{folder.name}.coming")  # on its way back: a kill may leave it
    if coming.exists():
        free = next((place for place in (folder, aside) if not place.exists()), None)
        if free is not None:
            coming.rename(free)
        else:
            _remove(coming)
    if _recipe_of(folder) == recipe:
        return
    back = _recipe_of(aside) == recipe
    if back:
        aside.rename(coming)
    _put_aside(folder, aside)
    if back:
        coming.rename(folder)
        logger.info("%s: going on with this recipe's state, which had been kept aside", folder)
    else:
        folder.mkdir(parents=True)
        (folder / "recipe").write_text(recipe, encoding="utf-8")


def _put_aside(folder: Path, aside: Path) -> None:
    """Make room for another recipe; what `aside` held goes where there is a later one to keep."""
    if not folder.exists():
        return
    saved = any(folder.glob("step-*")) or any(folder.glob("*.safetensors"))  # base's finished parts
    if saved and _recipe_of(folder) is not None:
        _remove(aside)
        folder.rename(aside)
        left = f"; its unfinished state is kept as {aside} until another one is put aside"
    else:
        _remove(folder)
        left = ""
    logger.info("the recipe or its inputs changed: not resuming%s", left)


def _remove(folder: Path) -> None:
    """Remove it so that a kill in between leaves nothing that passes for a state."""
    if folder.exists():
        (folder / "recipe").unlink(missing_ok=True)
        shutil.rmtree(folder)


def _recipe_of(folder: Path) -> str | None:
    note = folder / "recipe"
    return note.read_text(encoding="utf-8") if note.is_file() else None


class Curves:
    """Metrics by step in a JSON-lines file: {"step": 1, "train/loss": 0.7, …}.

    Written by the first rank alone. The file is also the spool of what the log could not deliver:
    it outlives a kill, and `rewind` hands all of it on again.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log

    def rewind(self, step: int) -> None:
        """Drop what was written after `step`, and tell the log what stays."""
        if not is_first():
            return
        rows = [row for row in read_curves(self._path) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        partial = self._path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._path)
        for row in rows:
            self._log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics and hand them on."""
        if not is_first():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._log(step, metrics)


def read_curves(path: Path) -> list[dict[str, float]]:
    """The rows of a curves file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_provenance(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """Write provenance.json: which stage, mode, fold, seed, params and parent made a checkpoint."""
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
