"""Which clips a step sees: epochs of shuffled clips, a function of seed and step alone."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def batch_at(items: Sequence[T], step: int, batch_size: int, seed: int) -> list[T]:
    """The `step`-th batch (from 1) of an endless run of shuffled epochs.

    Every item comes once an epoch; a batch may span two epochs. Stateless, so that a resumed run
    sees what an undisturbed one does. Raises ValueError for no items.
    """
    if not items:
        raise ValueError("no clips to train on")
    first = (step - 1) * batch_size
    places = [divmod(position, len(items)) for position in range(first, first + batch_size)]
    return [items[_order(len(items), epoch, seed)[index]] for epoch, index in places]


@lru_cache(maxsize=4)
def _order(n: int, epoch: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, epoch]).permutation(n).tolist())
