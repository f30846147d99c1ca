"""The gate's rule: when a candidate is better than another model on the same held-out clips. Pure.

Legend: n clips, B bootstrap samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r1omni.evaluation.predictions import Prediction
from r1omni.evaluation_config import PromotionParams

Flags = NDArray[np.bool_]  # (n,), one per clip


@dataclass(frozen=True)
class Outcomes:
    """What became of each held-out clip, in one order of the clips. Both arrays are (n,)."""

    right: Flags
    well_formed: Flags


@dataclass(frozen=True)
class Difference:
    """A candidate's rate minus a rival's on the same clips, as fractions.

    `low`, `high`: the paired bootstrap's interval. `sign_p`: the one-sided exact sign test over the
    clips on which the two differ (McNemar).
    """

    criterion: str
    candidate: float
    rival: float
    low: float
    high: float
    sign_p: float

    @property
    def gain(self) -> float:
        """The candidate's rate minus the rival's."""
        return self.candidate - self.rival

    def __str__(self) -> str:
        return (
            f"{self.criterion} {self.candidate:.4f} against {self.rival:.4f}: {self.gain:+.4f} "
            f"[{self.low:+.4f}, {self.high:+.4f}], sign test p {self.sign_p:.3f}"
        )


@dataclass(frozen=True)
class Comparison:
    """Whether a candidate is better than a rival; `reason` names the numbers that decide it."""

    better: bool
    reason: str
    differences: tuple[Difference, ...]


def outcomes_of(rows: Sequence[Prediction]) -> Outcomes:
    """The outcomes of a model's predictions, sorted by clip."""
    ordered = sorted(rows, key=lambda row: (row.corpus, row.clip_id))
    return Outcomes(
        np.array([row.right for row in ordered], dtype=bool),
        np.array([row.well_formed for row in ordered], dtype=bool),
    )


def compare(candidate: Outcomes, rival: Outcomes, promotion: PromotionParams) -> Comparison:
    """Whether the candidate is better than the rival on the same clips.

    Better: a higher WAR with confidence; or a WAR that is lower by no more than `margin`, with
    confidence, and a higher rate of the criterion `second` with confidence. Between equal models
    each way is taken with a chance of (1 - confidence) / 2 at most, both together of
    1 - confidence.
    """
    war = difference("WAR", candidate.right, rival.right, promotion)
    if _is_higher(war, promotion):
        return Comparison(True, str(war), (war,))
    if promotion.second is None:
        return Comparison(False, f"{war} is no gain with confidence", (war,))
    second = difference("format rate", candidate.well_formed, rival.well_formed, promotion)
    not_worse = war.low >= -promotion.margin
    better = not_worse and _is_higher(second, promotion)
    reason = f"{war}, {second}"
    if not not_worse:
        reason += f"; WAR may be lower by more than {promotion.margin:g}"
    elif not better:
        reason += "; neither is a gain with confidence"
    return Comparison(better, reason, (war, second))


def difference(
    criterion: str, candidate: Flags, rival: Flags, promotion: PromotionParams
) -> Difference:
    """The difference of two rates over the same clips, (n,) and (n,), with its interval.

    Paired: every bootstrap sample draws the same n clips for both models. Only the numbers of clips
    that one of them has and the other has not decide the difference: (B, 3) multinomial draws.
    Raises ValueError for no clips and for arrays of different lengths.
    """
    n = len(candidate)
    if n == 0 or len(rival) != n:
        raise ValueError(f"expected the same clips for both models, got {n} and {len(rival)}")
    gained, lost = int((candidate & ~rival).sum()), int((rival & ~candidate).sum())
    rng = np.random.default_rng(promotion.seed)
    shares = [gained / n, lost / n, (n - gained - lost) / n]
    draws = rng.multinomial(n, shares, size=promotion.bootstrap_samples)  # (B, 3)
    level = (1 - promotion.confidence) / 2
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [level, 1 - level])
    return Difference(
        criterion,
        float(candidate.mean()),
        float(rival.mean()),
        float(low),
        float(high),
        _sign_test(gained, lost),
    )


def _is_higher(found: Difference, promotion: PromotionParams) -> bool:
    """Bootstrap and sign test agree on a gain.

    With few differing clips the bootstrap alone is too sure: it takes 4 gained and 0 lost of 200
    for a gain, which equal models reach once in 16 times.
    """
    return found.low > 0 and found.sign_p <= (1 - promotion.confidence) / 2


def _sign_test(gained: int, lost: int) -> float:
    """The chance of at least `gained` heads in `gained + lost` throws of a fair coin."""
    throws = gained + lost
    ways = sum(math.comb(throws, k) for k in range(gained, throws + 1))
    return float(ways / 2**throws)
