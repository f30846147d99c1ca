"""Exact Shapley values, and the donors that stand in for an absent modality. Pure; numpy only."""

from collections.abc import Mapping
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Coalition = frozenset[str]


def shapley(values: Mapping[Coalition, Floats]) -> dict[str, Floats]:
    """Each player's Shapley value (Shapley 1953), element by element: one game per element.

    `values` holds v(S) of every subset S of the players, any number of them. The result sums to
    v(all) - v(none). Raises ValueError where a subset is missing.
    """
    players = sorted(set().union(*values))
    n = len(players)
    subsets = [frozenset(c) for k in range(n + 1) for c in combinations(players, k)]
    if missing := [sorted(s) for s in subsets if s not in values]:
        raise ValueError(f"no value for the subset {missing[0]} of the players {players}")
    result = {}
    for player in players:
        others = [s for s in subsets if player not in s]
        terms = [
            (values[s | {player}] - values[s]) / (n * comb(n - 1, len(s)))  # |S|!(n-|S|-1)!/n!
            for s in others
        ]
        result[player] = np.sum(terms, axis=0)
    return result


def donors(n: int, k: int, seed: int) -> NDArray[np.int64]:
    """For each of n clips k other clips (k, n), no clip its own donor and none twice.

    Each row is a permutation, so every clip donates once a row. Fewer rows where n - 1 < k.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    place = np.argsort(order)
    shifts = 1 + rng.permutation(max(n - 1, 0))[:k]
    return (
        np.stack([order[(place + shift) % n] for shift in shifts])
        if len(shifts)
        else (np.empty((0, n), dtype=np.int64))
    )
