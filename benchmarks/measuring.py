"""Measures a step's CPU and wall seconds by part and its peak memory, and names the hardware."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "numpy")


@dataclass
class Clock:
    """CPU and wall seconds of named parts; on CUDA every part waits for the device."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's seconds to `name`."""
        began = self._now()
        yield
        ended = self._now()
        self.cpu[name] = self.cpu.get(name, 0.0) + ended[0] - began[0]
        self.wall[name] = self.wall.get(name, 0.0) + ended[1] - began[1]

    def watch(self, name: str, *modules: nn.Module) -> None:
        """Add the forward passes of some modules to `name`, from now on."""
        began: list[tuple[float, float]] = []

        def before(_module: nn.Module, _inputs: Any) -> None:
            began.append(self._now())

        def after(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
            start, end = began.pop(), self._now()
            self.cpu[name] = self.cpu.get(name, 0.0) + end[0] - start[0]
            self.wall[name] = self.wall.get(name, 0.0) + end[1] - start[1]

        for module in modules:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)

    @staticmethod
    def _now() -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()


class PeakMemory:
    """The peak memory of this process (on CUDA: of the device) above its start, in MiB."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated() / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
            self._start = _status("VmRSS")

    def above_start(self) -> float:
        """The peak since the start, in MiB."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20 - self._start
        return _status("VmHWM") - self._start


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {name}: peak memory needs Linux")


def machine() -> dict[str, str]:
    """The hardware and the libraries, by name."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "device": device,
        "threads": "1",  # of every measurement, whatever the caller has
        **found,
    }


def matmul_rate(rows: int, shapes: list[tuple[int, int]], seconds: float = 1.0) -> float:
    """FLOP per CPU second of (rows, in) x (in, out) products, over many weights of these shapes.

    The weights together are larger than the CPU's caches, as a model's are.
    """
    copies = max(1, 40_000_000 // sum(a * b for a, b in shapes))
    weights = [torch.randn(out, width) for width, out in shapes for _ in range(copies)]
    inputs = {width: torch.randn(rows, width) for width, _ in shapes}
    flop = sum(2 * rows * weight.numel() for weight in weights)

    def once() -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    once()
    best, began = 0.0, time.process_time()
    while time.process_time() - began < seconds or best == 0.0:
        start = time.process_time()
        once()
        best = max(best, flop / (time.process_time() - start))
    return best
