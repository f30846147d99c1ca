"""Limits for decoding one clip: seconds, pixels and memory. Imports nothing heavy."""

import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Limits of a decoding process for one clip.

    `timeout_seconds`: to decode it. `max_pixels`: width x height of a frame. `memory_mb`: MiB above
    the memory that the process has before its first clip.
    """

    timeout_seconds: float
    max_pixels: int
    memory_mb: int


def limit_memory(memory_mb: int) -> None:
    """Limit this process to `memory_mb` MiB above its present memory; beyond it: MemoryError.

    RLIMIT_DATA counts private writable memory. RLIMIT_AS would also count mapped libraries: 3 GiB
    for torch alone.
    """
    limit = _data_bytes() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def memory_left() -> int | None:
    """The number of bytes that this process may still allocate; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else limit - _data_bytes()


def _data_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmData" in line) * 1024
