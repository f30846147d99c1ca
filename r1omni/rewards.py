"""Verifiable rewards (arXiv 2503.05379, section 2.1): a completion and its clip -> [0, 1].

The rewards here are pure and total: any string is accepted, none raises. `grounding` and `reader`
are made for clips of which the judges have said something (training/reward_functions.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import fmean
from typing import Final, Literal

from r1omni.claims import ATTRIBUTES, Side, Verdict, claims, levels
from r1omni.completions import parse
from r1omni.corpora.clip import Clip
from r1omni.emotions import canonical

# What a completion is worth, given the clip as the policy saw it: in GRPO with modality dropout a
# clip without its sound has `has_audio` False, one without its pictures has 0 frames.
Reward = Callable[[str, Clip], float]
Term = Literal["precision", "recall", "specificity"]
_SHOWN: Final = 300  # characters of a completion in an error


def accuracy_reward(completion: str, clip: Clip) -> float:
    """1.0 if the well-formed completion's answer names the clip's label, else 0.0."""
    parsed = parse(completion)
    return float(parsed is not None and canonical(parsed.answer) == clip.label)


def format_reward(completion: str, clip: Clip) -> float:
    """1.0 if the completion is well formed (`completions.parse`), else 0.0."""
    return float(parse(completion) is not None)


def votes_reward(completion: str, clip: Clip) -> float:
    """The share of the annotators' votes that the answer has; without votes, as accuracy."""
    if clip.soft_label is None:
        return accuracy_reward(completion, clip)
    parsed = parse(completion)
    answer = None if parsed is None else canonical(parsed.answer)
    return min(1.0, sum(share for label, share in clip.soft_label if label == answer))


def grounding_reward(
    completion: str,
    verdict: Verdict,
    dealt: Verdict,
    *,
    sides: Sequence[Side],
    absent: Side | None,
    min_claims: int,
    term: Term,
) -> float:
    """How much of the rationale the claim judges bear out: the mean over `sides`, in [0, 1].

    `verdict`: the judges' probabilities for this clip; `dealt`: their means over the clips with its
    label. A side that was `absent` is worth 1 if nothing is affirmed of it, else 0. Otherwise, with
    p the probability of a claim, n claimed attributes that are judged and m = max(n, min_claims):

    precision    sum p / m
    recall       2 P R / (P + R): P is precision, R the share of the judges' probability of
                 levels other than the middle that the rationale names at that level
    specificity  sum max(0, (p - d) / (1 - d)) / m: what a claim says of this clip beyond what it
                 would of any clip with its label (d)

    An attribute that is claimed at two levels is among the n and earns nothing. A completion that
    is not well formed is worth 0.
    """
    parsed = parse(completion)
    if parsed is None:
        return 0.0
    made, claimed = claims(parsed.rationale), levels(parsed.rationale)
    spoken_of = {claim.attribute for claim in made if not claim.negated}
    worth = []
    for side in sides:
        if side == absent:
            affirmed = any(claim.side == side and not claim.negated for claim in made)
            worth.append(float(not affirmed))
            continue
        judged = [name for name in ATTRIBUTES[side] if name in verdict]
        if not judged:
            continue
        said = {name: claimed[name] + 1 for name in judged if name in claimed}
        m = max(len(spoken_of.intersection(judged)), min_claims)
        precision = sum(verdict[name][level] for name, level in said.items()) / m
        if term == "precision":
            worth.append(precision)
        elif term == "recall":
            worth.append(_harmonic(precision, _recall(verdict, judged, said)))
        else:
            worth.append(sum(_beyond(verdict, dealt, *claim) for claim in said.items()) / m)
    return fmean(worth) if worth else 0.0


def _recall(verdict: Verdict, judged: Sequence[str], said: Mapping[str, int]) -> float:
    """How much of what is out of the ordinary is said, by the judges' probabilities."""
    there = sum(verdict[name][0] + verdict[name][2] for name in judged)
    found = sum(verdict[name][level] for name, level in said.items() if level != 1)
    return found / there if there > 0.0 else 1.0


def _harmonic(a: float, b: float) -> float:
    return 2.0 * a * b / (a + b) if a + b > 0.0 else 0.0


def _beyond(verdict: Verdict, dealt: Verdict, name: str, level: int) -> float:
    mean = dealt[name][level] if name in dealt else 0.0
    return max(0.0, (verdict[name][level] - mean) / (1.0 - mean)) if mean < 1.0 else 0.0


REWARDS: Final[Mapping[str, Reward]] = {
    "accuracy": accuracy_reward,
    "format": format_reward,
    "votes": votes_reward,
}


@dataclass(frozen=True)
class Score:
    """A completion's weighted reward, and its parts before weighting."""

    reward: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Rewards:
    """The rewards of a training and their weights, by the same names."""

    functions: Mapping[str, Reward]
    weights: Mapping[str, float]

    def score(self, completion: str, clip: Clip) -> Score:
        """R = sum of weight x part (the paper: accuracy + format, weights 1).

        Raises ValueError naming the reward and the clip for a part that is not a number in [0, 1].
        """
        parts = {
            name: _checked(name, reward(completion, clip), completion, clip)
            for name, reward in self.functions.items()
        }
        return Score(sum(self.weights[name] * part for name, part in parts.items()), parts)


# Accuracy + format (arXiv 2503.05379, eq. 2).
PAPERS_REWARDS: Final = Rewards(
    {"accuracy": accuracy_reward, "format": format_reward}, {"accuracy": 1.0, "format": 1.0}
)


def shortened(completion: str) -> str:
    """The completion as an error shows it."""
    cut = "…" if len(completion) > _SHOWN else ""
    return f"the completion {completion[:_SHOWN]!r}{cut}"


def _checked(name: str, value: object, completion: str, clip: Clip) -> float:
    if isinstance(value, Real) and 0.0 <= float(value) <= 1.0:
        return float(value)
    raise ValueError(
        f"reward {name}: {value!r} for {shortened(completion)} of clip {clip.clip_id!r}; "
        "a reward is a number in [0, 1]"
    )
