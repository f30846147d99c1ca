"""Verifiable rewards (arXiv 2503.05379, section 2.1): text and label -> a number in [0, 1].

Rewards are pure and total: any string is accepted, none raises.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from r1omni.completions import parse
from r1omni.emotions import canonical


def accuracy_reward(completion: str, label: str) -> float:
    """1.0 if the well-formed completion's answer names `label` after normalisation, else 0.0."""
    parsed = parse(completion)
    return float(parsed is not None and canonical(parsed.answer) == label)


def format_reward(completion: str) -> float:
    """1.0 if the completion is well formed (`completions.parse`), else 0.0."""
    return float(parse(completion) is not None)


REWARDS: Final[Mapping[str, Callable[[str, str], float]]] = {
    "accuracy": accuracy_reward,
    "format": lambda completion, _label: format_reward(completion),
}


@dataclass(frozen=True)
class Score:
    """A completion's weighted reward, and its parts before weighting."""

    reward: float
    parts: Mapping[str, float]


def score_completion(completion: str, label: str, weights: Mapping[str, float]) -> Score:
    """R = sum of weight x part over the named rewards (the paper: accuracy + format, weights 1).

    Raises KeyError for a weight whose name is not in `REWARDS`.
    """
    parts = {name: REWARDS[name](completion, label) for name in weights}
    return Score(sum(weights[name] * part for name, part in parts.items()), parts)
