"""Choosing among sampled completions: by the judges, and by the reader over all of them.

The judges choose the rationale whose claims they support. No training is needed for it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from r1omni.claims import ATTRIBUTES, Verdict, levels
from r1omni.judges.judge import Floats
from r1omni.judges.reader import Reader
from r1omni.judging import Judgement

MIN_CLAIMS: Final = 3  # of a side; fewer are as good as so many of which some are unsupported


def support_of(rationale: str, verdict: Verdict) -> float:
    """The mean over the sides of: sum of p(claimed level) / max(MIN_CLAIMS, claims), in [0, 1].

    A side of which the verdict judges nothing is left out; 0.0 if it judges nothing at all.
    """
    said = levels(rationale)
    found = []
    for names in ATTRIBUTES.values():
        if not any(name in verdict for name in names):
            continue
        p = [verdict[name][said[name] + 1] for name in names if name in said and name in verdict]
        found.append(sum(p) / max(MIN_CLAIMS, len(p)))
    return float(np.mean(found)) if found else 0.0


def best_by_judges(samples: Sequence[Judgement], verdict: Verdict) -> Judgement | None:
    """The well-formed sample with the most support, the first of equals; None without one."""
    formed = [sample for sample in samples if sample.rationale is not None]
    return max(formed, key=lambda s: support_of(s.rationale or "", verdict), default=None)


def read_all(samples: Sequence[Judgement], reader: Reader, labels: Sequence[str]) -> str | None:
    """The label of the highest mean probability over the samples' rationales."""
    mean = mean_probabilities(samples, reader)
    if mean is None:
        return None
    known = [(mean[i], label) for i, label in enumerate(reader.labels) if label in labels]
    return max(known)[1] if known else None


def mean_probabilities(samples: Sequence[Judgement], reader: Reader) -> Floats | None:
    """The reader's probabilities (L,), their mean over the rationales; None without a rationale."""
    texts = [sample.rationale for sample in samples if sample.rationale is not None]
    if not texts:
        return None
    mean: Floats = reader.probabilities(texts).mean(axis=0)
    return mean
