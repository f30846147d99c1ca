"""Trainings that are killed with SIGKILL at seeded moments, again and again, until they end."""

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import toy
from forked import Ranks, stage

from r1omni.machine.curves import read_curves


@dataclass
class Killed:
    """What was done to a training."""

    kills: int = 0
    in_a_write: int = 0  # the kill left a half-written state behind
    at_steps: list[int] = field(default_factory=list)  # steps in the curves when it came


def kill_until_done(
    kind: str,
    world: Path,
    folder: Path,
    *,
    kills: int,
    seed: int,
    machine: dict[str, Any],
    params: dict[str, Any],
) -> Killed:
    """Start the stage, kill it `kills` times at moments drawn from `seed`, then let it end.

    Every second kill comes as soon as a state is seen half written, the others some moments
    after the next 0 to 5 steps have been logged (0: while the process is still starting).
    """
    draw = random.Random(seed)
    told = Killed()
    size = machine.get("processes", 1)
    folder.mkdir(parents=True, exist_ok=True)
    while told.kills < kills:
        before = _half_written(folder)
        ranks = Ranks(folder, size, stage, kind, world, folder, machine, params)
        if told.kills % 2 == 1:
            _wait_for(ranks, lambda: any(toy.state_in(folder).glob(".partial-*/state/*")))
        else:
            _wait_for(ranks, _moment(folder, draw))
            time.sleep(draw.uniform(0.0, 0.05))
        assert ranks.alive, f"it ended after {told.kills} kills: {ranks.wait()}"
        told.at_steps.append(_steps(folder))
        ranks.kill(first=draw.randrange(size))
        told.kills += 1
        told.in_a_write += bool(_half_written(folder) - before)
    codes = Ranks(folder, size, stage, kind, world, folder, machine, params).wait()
    assert codes == [0] * size, (folder / "said-0").read_text()[-3000:]
    return told


def _moment(folder: Path, draw: random.Random) -> Callable[[], bool]:
    """Whether the next one to five steps have been logged, or some of the start has gone by."""
    begun, more = _steps(folder), draw.randrange(6)
    until = time.monotonic() + draw.uniform(0.0, 1.0)

    def come() -> bool:
        if more == 0:
            return time.monotonic() > until
        return abs(_steps(folder) - begun) >= more  # a resumed run may first go back

    return come


def undisturbed(
    kind: str, world: Path, folder: Path, machine: dict[str, Any], params: dict[str, Any]
) -> Path:
    """The folder of the same training, left alone."""
    size = machine.get("processes", 1)
    folder.mkdir(parents=True, exist_ok=True)
    codes = Ranks(folder, size, stage, kind, world, folder, machine, params).wait()
    assert codes == [0] * size, (folder / "said-0").read_text()[-3000:]
    return folder


def curves(folder: Path) -> list[dict[str, float]]:
    """The curves that the stage has left."""
    return read_curves(folder / "training" / "curves.jsonl")


def times(folder: Path) -> list[dict[str, float]]:
    """The seconds of its steps."""
    return read_curves(toy.paths_in(folder).state / "times.jsonl")


def mlflow_points(folder: Path) -> tuple[list[str], list[tuple[str, int, float]]]:
    """The status of every run in the store, and all points but the times, in order."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        runs = [status for (status,) in store.execute("select status from runs")]
        rows = store.execute(
            "select key, step, value from metrics where key not like 'time/%' order by key, step"
        ).fetchall()
    store.close()
    return runs, rows


def _half_written(folder: Path) -> set[int]:
    """The inodes of states without their final name."""
    return {partial.stat().st_ino for partial in toy.state_in(folder).glob(".partial-*")}


def _wait_for(ranks: Ranks, condition: Any) -> None:
    while ranks.alive and not condition():
        time.sleep(0.0005)


def _steps(folder: Path) -> int:
    """How many lines the curves have: a step that is repeated stands there twice for a while."""
    curves = toy.state_in(folder) / "curves.jsonl"
    return curves.read_text().count("\n") if curves.is_file() else 0
