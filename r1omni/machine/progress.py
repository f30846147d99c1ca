"""Progress of a training: a bar with step and time left, and the seconds of its parts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from r1omni.machine.environment import is_first


def steps_bar() -> Progress:
    """A bar on standard error that vanishes when the training ends; only rank 0 shows one."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not is_first())


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put a block's wall time in seconds into `seconds[name]`, including its CUDA kernels."""
    began = _now()
    yield
    seconds[name] = _now() - began


def _now() -> float:
    # Not is_available: synchronize would then open a CUDA device in a process that runs on the CPU.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()
