"""Processes that start in milliseconds: forked from one that has everything imported.

They can be killed at any moment, alone or as the ranks of one training.
"""

import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import toy
from forking import start_forked

from r1omni.config import TrackingParams
from r1omni.machine.state_folders import remove_finished_states
from r1omni.tracking.runs import open_run

# For training on a CUDA device: DeepSpeed is not yet imported there, for the CPU.
_fresh = multiprocessing.get_context("spawn")

toy.toy_params()  # read once, before anything is forked: an edit of params.yaml changes no child


def _start_fresh(target: Callable[..., None], *args: Any) -> BaseProcess:
    process: BaseProcess = _fresh.Process(target=target, args=args)
    process.start()
    return process


class Ranks:
    """A function in `size` processes, which are the ranks of one training."""

    def __init__(self, folder: Path, size: int, target: Callable[..., None], *args: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        on_cuda = any("cuda" in (arg.values() if isinstance(arg, dict) else [arg]) for arg in args)
        start = _start_fresh if on_cuda else start_forked
        self.processes: list[BaseProcess] = [
            start(_run, rank, size, port, folder, target, args) for rank in range(size)
        ]

    def wait(self, seconds: float = 600.0) -> list[int | None]:
        """Their exit codes; those that hang are killed and have None."""
        for process in self.processes:
            process.join(seconds)
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def kill(self, first: int = 0) -> None:
        """SIGKILL to all, the rank `first` before the others."""
        order = [*self.processes[first:], *self.processes[:first]]
        for process in order:
            process.kill()
        for process in order:
            process.join()

    def terminate(self, rank: int = 0) -> None:
        """SIGTERM to one of them."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)

    @property
    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)


def _run(
    rank: int,
    size: int,
    port: int,
    folder: Path,
    target: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    gc.freeze()  # DeepSpeed collects garbage often, and there are a million objects by now
    said = (folder / f"said-{rank}").open("a")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.stdout = sys.stderr = said
    target(*args)


def stage(
    kind: str, world: Path, folder: Path, machine: dict[str, Any], params: dict[str, Any]
) -> None:
    """A GRPO or SFT stage of the toy with its MLflow run, which hears of every step at once."""
    store = folder / "mlflow.db"
    tracking = TrackingParams(
        uri=f"sqlite:///{store}",
        artifacts=None,
        experiment="toy",
        system_metrics=False,
        registered_model="toy",
    )
    paths = toy.paths_in(folder)
    os.environ["DVC_ROOT"] = str(folder)
    os.chdir(folder)
    with open_run(
        kind, tracking=tracking, params={}, state=paths.state.with_suffix(".run.json")
    ) as run:

        def log(step: int, metrics: Any) -> None:
            run.log(step, metrics)
            run.flush()

        train(kind, world, folder, machine, params, log)
        run.finish(paths.checkpoint, paths.training)
    remove_finished_states(paths)


def train(
    kind: str,
    world: Path,
    folder: Path,
    machine: dict[str, Any],
    params: dict[str, Any],
    log: Any = None,
) -> None:
    """The stage alone, without MLflow."""
    log = log or (lambda _step, _metrics: None)
    given = {**params}
    held_out = given.pop("held_out", 0)
    every = given.pop("every", 2)
    how = {**machine}
    engine = (how.pop("dtype", "fp32"), how.pop("adapter", None))
    own = toy.machine_params(**how)
    if kind == "grpo":
        toy.train_grpo(world, folder, own, toy.grpo_params(**given), log, held_out, every, *engine)
    else:
        toy.train_sft(world, folder, own, toy.sft_params(**given), log, held_out, *engine)
