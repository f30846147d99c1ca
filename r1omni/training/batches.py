"""Which clips a step sees: epochs of shuffled clips, a function of seed and step alone."""

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def batch_at(
    items: Sequence[T],
    step: int,
    batch_size: int,
    seed: int,
    shares: tuple[float, ...] | None = None,
) -> list[T]:
    """The `step`-th batch (from 1) of an endless run of shuffled epochs.

    Every item comes once an epoch or, with `shares`, as often as it is drawn by them, with
    replacement; a batch may span two epochs. Stateless, so that a resumed run sees what an
    undisturbed one does. Raises ValueError for no items.
    """
    if not items:
        raise ValueError("no clips to train on")
    first = (step - 1) * batch_size
    places = [divmod(position, len(items)) for position in range(first, first + batch_size)]
    return [items[_order(len(items), epoch, seed, shares)[index]] for epoch, index in places]


def balanced_shares(classes: Sequence[Hashable], balance: float) -> tuple[float, ...] | None:
    """How often each item is drawn so that a class of n items weighs n ** (1 - balance).

    0 leaves the classes as they are (None: every item once an epoch), 1 makes them equal.
    """
    if balance == 0.0:
        return None
    counts = Counter(classes)
    weights = np.array([counts[c] ** -balance for c in classes])
    return tuple((weights / weights.sum()).tolist())


@lru_cache(maxsize=4)
def _order(n: int, epoch: int, seed: int, shares: tuple[float, ...] | None) -> tuple[int, ...]:
    rng = np.random.default_rng([seed, epoch])
    drawn = rng.permutation(n) if shares is None else rng.choice(n, size=n, p=shares)
    return tuple(drawn.tolist())
