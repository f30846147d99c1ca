"""Training states on disk: written whole or not at all, checked when read, the last few kept.

A state is a folder step-NNNNNN with DeepSpeed's files of every rank and record.json (step, recipe,
number of ranks, SHA-256 of every file). Weights, optimiser and schedule are all there is: batches
and sampling draw from generators that are functions of seed, step and place in the batch, so there
is no sampler position and no random state to keep, on any rank.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import distributed

from r1omni.training.ranks import barrier, gather, is_first, world_size

RECORD = "record.json"
BY_PEER = "by peer"  # "Connection closed by peer", as gloo says

logger = logging.getLogger(__name__)


class StateNotWritten(RuntimeError):
    """A training state could not be written; says which, why, and what is left."""


def write_state(
    folder: Path, step: int, recipe: str, keep: int, write: Callable[[Path], None]
) -> Path:
    """The new state's folder, once every rank has written its part by `write(folder)`.

    It gets its name when it is whole; a kill at any moment leaves the states before it. All ranks
    call this together. Of the older ones the `keep - 1` newest stay; any of later steps, which this
    training cannot have continued from, go. Raises StateNotWritten, which
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
    except distributed.DistError:
        raise  # NCCL's word for the same as BY_PEER
    except (OSError, RuntimeError) as error:  # torch has several RuntimeErrors for a full disk
        if BY_PEER in str(error):
            raise  # another rank has ended, and says why itself
        shutil.rmtree(partial, ignore_errors=True)
        raise StateNotWritten(_why(folder, step, error)) from error
    barrier()
    if is_first():
        record = {
            "step": step,
            "recipe": recipe,
            "ranks": world_size(),
            "sha256": {str(p.relative_to(partial)): sha256(p) for p in _files(partial)},
        }
        (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        states = sorted(folder.glob("step-*"))
        newest = states.index(final) + 1  # what is beyond was passed over, or would not be so
        for state in [*states[: max(0, newest - keep)], *states[newest:]]:
            shutil.rmtree(state)
    barrier()
    return final


def newest_state(folder: Path, recipe: str) -> tuple[Path, int] | None:
    """The newest whole state of this recipe and its step; all ranks get the first one's answer.

    What is passed over is said: damaged files by name, another recipe, another number of ranks
    (DeepSpeed's shards fit only as many ranks as wrote them).
    """
    return gather(_newest_whole(folder, recipe) if is_first() else None)[0]


def _newest_whole(folder: Path, recipe: str) -> tuple[Path, int] | None:
    for state in sorted(folder.glob("step-*"), reverse=True):
        try:
            record = json.loads((state / RECORD).read_text(encoding="utf-8"))
            step, ranks = int(record["step"]), int(record["ranks"])
            damaged = [n for n, digest in record["sha256"].items() if sha256(state / n) != digest]
            same = record["recipe"] == recipe
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s: passed over, its %s cannot be read: %s", state, RECORD, error)
            continue
        if damaged:
            logger.warning("%s: passed over, damaged: %s", state, ", ".join(damaged))
        elif not same:
            logger.warning("%s: passed over, it belongs to another recipe", state)
        elif ranks != world_size():
            logger.warning(
                "%s: passed over, %d processes wrote it and %d train now",
                state,
                ranks,
                world_size(),
            )
        else:
            return state, step
    return None


def sha256(path: Path) -> str:
    """The hexadecimal digest of the file's bytes, or "missing"."""
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _why(folder: Path, step: int, error: Exception) -> str:
    whole = sorted(folder.glob("step-*"))
    free = shutil.disk_usage(folder).free / 2**20
    aside = folder.with_name(f"{folder.name}.aside")  # journal.open_state
    hint = f" ({aside}, another recipe's state, could go)" if aside.exists() else ""
    return (
        f"{folder}: the state of step {step} could not be written ({error}); {free:.0f} MiB are "
        f"free there{hint}. Last good state: {whole[-1] if whole else 'none'}"
    )


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
