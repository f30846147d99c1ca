"""Does a model know which of its claims are wrong? By its own probability of each claim's words."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from r1omni.claims import Verdict, claims
from r1omni.evaluation.audit.examine import Examined
from r1omni.evaluation.audit.grounding import CONTRADICTED, SIDES, SUPPORTED, Found
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import Measured
from r1omni.judges.verdicts import support

KEPT: Final = 0.7  # of the claims, the most certain ones


def certainty(
    examined: Sequence[Examined], verdicts: Mapping[str, Verdict], bootstrap: Bootstrap
) -> Found:
    """How well certainty tells supported from contradicted claims, by side.

    auc: the chance that a supported claim is the more certain one. supported_at_70: the share of
    supported claims among the 70 % most certain, beside `supported_at_100` of all.
    """
    found: dict[str, Measured | None] = {}
    for side in SIDES:
        certain, probable, of_clip = [], [], []
        for i, e in enumerate(examined):
            verdict = verdicts.get(e.subject.clip_id, {})
            for claim, value in zip(claims(e.subject.rationale or ""), e.certainty, strict=True):
                judged = support(verdict, claim.attribute, claim.level, claim.negated)
                if claim.side == side and judged is not None:
                    certain.append(value)
                    probable.append(judged)
                    of_clip.append(i)
        p = np.array(probable)
        decided = (p >= SUPPORTED) | (p < CONTRADICTED)
        told_apart = auc(np.array(certain)[decided], p[decided] >= SUPPORTED)
        if told_apart is None:
            continue
        found[f"certainty.{side}.auc"] = Measured(value=told_apart, n=int(decided.sum()))
        kept = np.argsort(-np.array(certain), kind="stable")[: max(1, round(KEPT * len(p)))]
        for share, at in (("70", kept), ("100", np.arange(len(p)))):
            clips = np.array(of_clip)[at]
            found[f"certainty.{side}.supported_at_{share}"] = bootstrap.ratio(
                np.bincount(clips, p[at] >= SUPPORTED, len(examined)),
                np.bincount(clips, minlength=len(examined)),
            )
    return found


def auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """The chance that a positive has the higher score, ties counting half; None without pairs."""
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(flags.sum()), int((~flags).sum())
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of ties, from 1
    return float(
        (ranks[flags].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    )
