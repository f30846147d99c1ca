"""One step's record from what every rank and micro-batch has seen of it."""

from collections.abc import Sequence
from dataclasses import dataclass

Row = dict[str, object]
# Means over the completions that were learned from, and over the tokens that were scored. Without
# a KL term not all are scored; those that `mask_truncated` masks are scored and not learned from.
LEARNED = ("train/kl", "train/clipped")
SCORED_TOKENS = ("rollout/entropy", "rollout/logprob_gap")


@dataclass(frozen=True)
class MeanWeights:
    """How much the means in LEARNED and in SCORED_TOKENS of a micro-batch weigh in the step's."""

    completions: int  # learned from
    tokens: int  # scored


@dataclass(frozen=True)
class Part:
    """The record of one micro-batch of a step; plain values, so that ranks can exchange it."""

    metrics: dict[str, float]  # means over its completions (but LEARNED, SCORED_TOKENS), seconds
    completions: int
    tokens: int
    scored: MeanWeights
    rows: list[Row]  # its rollouts, for the table


def joint_metrics(ranks: Sequence[Sequence[Part]]) -> dict[str, float]:
    """The metrics of the whole step, as one process would have seen them in one batch.

    Means weigh by completions; the KL by those that were learned from, entropy and logprob gap by
    the tokens that were scored, and they are 0 where nothing was. Seconds add up within a rank, and
    the slowest one counts. `time/tokens_per_second` is sampled tokens of all ranks per second.
    """
    parts = [part for rank in ranks for part in rank]
    names = [name for name in parts[0].metrics if not name.startswith("time/")]
    timers = [name for name in parts[0].metrics if name.startswith("time/")]
    joint = {}
    for name in names:
        weights = [_weight(part, name) for part in parts]
        weighted = (w * p.metrics[name] for w, p in zip(weights, parts, strict=True))
        joint[name] = sum(weighted) / max(1, sum(weights))
    for name in timers:
        joint[name] = max(sum(part.metrics[name] for part in rank) for rank in ranks)
    if joint.get("time/sample"):
        joint["time/tokens_per_second"] = sum(p.tokens for p in parts) / joint["time/sample"]
    return joint


def _weight(part: Part, name: str) -> int:
    if name in SCORED_TOKENS:
        return part.scored.tokens
    return part.scored.completions if name in LEARNED else part.completions
