"""What one clip may cost: seconds, pixels and memory. Imports nothing heavy."""

import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one clip may cost a decoding process.

    `timeout_seconds` to decode it, `max_pixels` (width x height) of a frame, `memory_mb` (MiB)
    above what the process holds before its first clip.
    """

    timeout_seconds: float
    max_pixels: int
    memory_mb: int


def limit_memory(memory_mb: int) -> None:
    """Let this process allocate at most so many MiB more than it has now; more is a MemoryError.

    RLIMIT_DATA counts private writable memory. RLIMIT_AS would count mapped libraries too, of
    which torch alone has 3 GiB.
    """
    limit = _held() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def memory_left() -> int | None:
    """How many bytes this process may still allocate; None where nothing limits it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else limit - _held()


def _held() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmData" in line) * 1024
