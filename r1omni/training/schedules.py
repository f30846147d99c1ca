"""A training's functions of its step number: the learning rate's factor, and random generators."""

import hashlib
import math
from collections.abc import Callable

import torch

Schedule = Callable[[int], float]


def linear_decay(steps: int, warmup: float) -> Schedule:
    """The factor on the learning rate: linear warm-up, then linear decay to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor


def cosine_decay(steps: int, warmup: float) -> Schedule:
    """The factor on the learning rate: linear warm-up, then cosine decay to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, steps - rising)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return factor


def step_generator(seed: int, step: int, place: int = 0) -> torch.Generator:
    """The random generator of one clip of one step's global batch (`place`: its index there).

    It depends on these three numbers alone. So a resumed run draws the same numbers again, and N
    processes draw what one process would.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{place}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
