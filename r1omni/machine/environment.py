"""This process's rank, by RANK, WORLD_SIZE and LOCAL_RANK in the environment.

The launcher sets them (our stages, torchrun, deepspeed, srun). Imports no torch.
"""

import os


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
