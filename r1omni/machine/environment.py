"""Which of several processes this one is: RANK, WORLD_SIZE and LOCAL_RANK of the environment.

Set by whatever launched the processes (our stages, torchrun, deepspeed, srun). Imports no torch.
"""

import os


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Which of the processes of this computer this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one process that writes files, curves and MLflow."""
    return rank() == 0
