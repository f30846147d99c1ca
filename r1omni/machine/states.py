"""Training states on disk: written whole or not at all, checked when read, the last few kept.

A state is a folder step-NNNNNN with DeepSpeed's files of every rank and record.json (step, recipe,
number of ranks, layout, SHA-256 of every file). Weights, optimiser and schedule are all there is:
batches and sampling draw from generators that are functions of seed, step and place in the batch,
so there is no sampler position and no random state to keep, on any rank.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from r1omni.machine.environment import is_first, world_size
from r1omni.machine.launch import lost_peer
from r1omni.machine.ranks import barrier, gather

RECORD = "record.json"
WHOLE = "whole"  # the layout in which rank 0's file holds everything, for any number of ranks

logger = logging.getLogger(__name__)


class StateNotWritten(RuntimeError):
    """A training state could not be written; says which, why, and what is left."""


class StateDoesNotFit(ValueError):
    """The newest state cannot continue under these params; names both values. Nothing is lost."""


def write_state(
    folder: Path, step: int, recipe: str, keep: int, layout: str, write: Callable[[Path], None]
) -> Path:
    """The new state's folder, once every rank has written its part by `write(folder)`.

    It gets its name when it is whole; a kill at any moment leaves the states before it. All ranks
    call this together. Of the older ones the `keep - 1` newest stay. `layout`: WHOLE, or how the
    state is divided among ranks. Raises StateNotWritten, which
    names the file system's room, where a part cannot be written; then too the older ones are whole.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    if is_first():
        for left in folder.glob(".partial-*"):  # by a run that was killed while it wrote
            shutil.rmtree(left)
    barrier()
    try:
        write(partial)
    except (OSError, RuntimeError) as error:  # torch has several RuntimeErrors for a full disk
        if lost_peer(error):
            raise  # another rank has ended, and the launcher says why
        shutil.rmtree(partial, ignore_errors=True)
        raise StateNotWritten(_why(folder, step, error)) from error
    barrier()
    if is_first():
        record = {
            "step": step,
            "recipe": recipe,
            "ranks": world_size(),
            "layout": layout,
            "sha256": {str(p.relative_to(partial)): sha256(p) for p in _files(partial)},
        }
        (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        earlier = [state for state in sorted(folder.glob("step-*")) if state < final]
        for state in earlier[: max(0, len(earlier) + 1 - keep)]:
            shutil.rmtree(state)
    barrier()
    return final


def newest_state(folder: Path, recipe: str, layout: str) -> tuple[Path, int] | None:
    """The newest whole state of this recipe and its step; all ranks get the first one's answer.

    Damaged ones are passed over, which is logged. Raises StateDoesNotFit, on every rank, where the
    newest whole one was written in another layout, or divided among another number of ranks.
    """
    found, problem = gather(_newest_whole(folder, recipe, layout) if is_first() else (None, ""))[0]
    if problem:
        raise StateDoesNotFit(problem)
    return found


def _newest_whole(folder: Path, recipe: str, layout: str) -> tuple[tuple[Path, int] | None, str]:
    for state in sorted(folder.glob("step-*"), reverse=True):
        try:
            record = json.loads((state / RECORD).read_text(encoding="utf-8"))
            step, ranks, own = int(record["step"]), int(record["ranks"]), str(record["layout"])
            damaged = [n for n, digest in record["sha256"].items() if sha256(state / n) != digest]
            same = record["recipe"] == recipe
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s: passed over, its %s cannot be read: %s", state, RECORD, error)
            continue
        if damaged:
            logger.warning("%s: passed over, damaged: %s", state, ", ".join(damaged))
        elif not same:
            logger.warning("%s: passed over, it belongs to another recipe", state)
        elif own != layout:
            return None, _misfit(state, f"is {own} and this training's would be {layout}")
        elif own != WHOLE and ranks != world_size():
            shape = f"is divided among {ranks} processes ({own}) and {world_size()} train now"
            return None, _misfit(state, shape)
        else:
            return (state, step), ""
    return None, ""


def _misfit(state: Path, how: str) -> str:
    return (
        f"{state} {how}: put machine.processes and zero_stage back to go on from it, or "
        f"remove {state.parent} to train from the start; nothing was changed"
    )


def sha256(path: Path) -> str:
    """The hexadecimal digest of the file's bytes, or "missing"."""
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _why(folder: Path, step: int, error: Exception) -> str:
    whole = sorted(folder.glob("step-*"))
    free = shutil.disk_usage(folder).free / 2**20
    others = sorted(str(p.parent) for p in folder.parent.glob("*/step-*") if p.parent != folder)
    hint = f" ({', '.join(dict.fromkeys(others))}: another recipe's, could go)" if others else ""
    return (
        f"{folder}: the state of step {step} could not be written ({error}); {free:.0f} MiB are "
        f"free there{hint}. Last good state: {whole[-1] if whole else 'none'}"
    )


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
