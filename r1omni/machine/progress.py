"""What a training shows while it runs: a line with step and time left, the seconds of its parts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from r1omni.machine.environment import is_first


def steps_bar() -> Progress:
    """A bar on standard error that goes when the training ends; only rank 0 has one."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not is_first())


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds of wall time of a block, with all that it began on a CUDA device."""
    began = _now()
    yield
    seconds[name] = _now() - began


def _now() -> float:
    # Not is_available: then synchronize would open a device in a process on the CPU.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()
