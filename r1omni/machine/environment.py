"""What the environment says and is told: ranks, and which instructions numpy may use.

The launcher sets RANK, WORLD_SIZE and LOCAL_RANK (our stages, torchrun, deepspeed, srun). Imports
neither torch nor numpy.
"""

import os
import platform


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those of this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """The number of processes in the process group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is rank 0, which alone writes files and curves and logs to MLflow."""
    return rank() == 0


def numpy_as_everywhere() -> None:
    """Let numpy, not yet imported, compute the same bytes on every x86-64 CPU.

    With AVX-512 its exp and log1p round differently, so an Intel server's synthetic clips were not
    those of an AMD one. For this process and its children; a value that is set already stays.
    """
    if platform.machine() == "x86_64":
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4 AVX512_ICL AVX512_SPR")
