"""Training states on disk: written atomically, checked when read, the last few kept.

A state is a folder step-NNNNNN with DeepSpeed's files of every rank and record.json (step, recipe,
number of ranks, layout, SHA-256 of every file). It holds weights, optimiser and schedule. No rank
has a sampler position or a random state: batches and samples draw from generators that are
functions of seed, step and index in the batch.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from r1omni.machine.environment import is_first, world_size
from r1omni.machine.launch import is_peer_loss
from r1omni.machine.ranks import barrier, gather_patiently

RECORD = "record.json"
WHOLE = "whole"  # the layout in which rank 0's file has everything, for any number of ranks

logger = logging.getLogger(__name__)


class StateNotWritten(RuntimeError):
    """A training state could not be written; names it, the cause and the last good state."""


class StateDoesNotFit(ValueError):
    """The newest state cannot continue under these params; names both values. Nothing changed."""


def write_state(
    folder: Path, step: int, recipe: str, keep: int, layout: str, write: Callable[[Path], None]
) -> Path:
    """The new state's folder, after every rank has written its part by `write(folder)`.

    The folder gets its name when it is complete, so a kill at any moment leaves the older states.
    All ranks call this together. The `keep - 1` newest older states stay. `layout`: WHOLE, or how
    the state is divided among ranks. Raises StateNotWritten, which names the free disk space, if a
    part cannot be written; the older states then stay.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    if is_first():
        for left in folder.glob(".partial-*"):  # a kill interrupted their writing
            shutil.rmtree(left)
    barrier()
    try:
        write(partial)
    except (OSError, RuntimeError) as error:  # torch has several RuntimeErrors for a full disk
        if is_peer_loss(error):
            raise  # another rank has ended; the launcher reports the cause
        shutil.rmtree(partial, ignore_errors=True)
        raise StateNotWritten(_write_failure(folder, step, error)) from error
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
    """The newest undamaged state of this recipe and its step; every rank gets rank 0's answer.

    Damaged states are skipped and logged. Raises StateDoesNotFit, on every rank, if the newest
    undamaged state has another layout or is divided among another number of ranks.
    """
    own = _newest_whole(folder, recipe, layout) if is_first() else (None, "")
    found, problem = gather_patiently(own)[0]
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
            return None, _mismatch(state, f"is {own} and this training's would be {layout}")
        elif own != WHOLE and ranks != world_size():
            shape = f"is divided among {ranks} processes ({own}) and {world_size()} train now"
            return None, _mismatch(state, shape)
        else:
            return (state, step), ""
    return None, ""


def _mismatch(state: Path, difference: str) -> str:
    return (
        f"{state} {difference}: put machine.processes and zero_stage back to continue from it, or "
        f"remove {state.parent} to train from the start; nothing was changed"
    )


def sha256(path: Path) -> str:
    """The hexadecimal digest of the file's bytes, or "missing"."""
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_failure(folder: Path, step: int, error: Exception) -> str:
    whole = sorted(folder.glob("step-*"))
    free = shutil.disk_usage(folder).free / 2**20
    others = sorted(str(p.parent) for p in folder.parent.glob("*/step-*") if p.parent != folder)
    names = ", ".join(dict.fromkeys(others))
    hint = f" (you may remove the states of other recipes: {names})" if others else ""
    return (
        f"{folder}: the state after update {step} could not be written ({error}); {free:.0f} MiB "
        f"are free there{hint}. Last good state: {whole[-1] if whole else 'none'}"
    )


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
