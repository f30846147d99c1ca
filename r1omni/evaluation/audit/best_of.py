"""Choosing among sampled completions: by the judges, by the reader, by a vote.

The judges choose the rationale whose claims they support. No training is needed for it. How true
the chosen rationale is, only a side file can say: the judges cannot measure what they chose.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from r1omni.claims import ATTRIBUTES, Verdict, levels
from r1omni.evaluation.audit.examine import Examined
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import Measured
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


def vote(samples: Sequence[Judgement]) -> str | None:
    """The commonest prediction, the first of equals; None where no sample has one."""
    counts = Counter(s.prediction for s in samples if s.prediction is not None)
    return counts.most_common(1)[0][0] if counts else None


def read_all(samples: Sequence[Judgement], reader: Reader, labels: Sequence[str]) -> str | None:
    """The label of the highest mean probability over the samples' rationales."""
    texts = [sample.rationale for sample in samples if sample.rationale is not None]
    if not texts:
        return None
    mean = reader.probabilities(texts).mean(axis=0)
    known = [(mean[i], label) for i, label in enumerate(reader.labels) if label in labels]
    return max(known)[1] if known else None


def best_of(
    examined: Sequence[Examined],
    verdicts: Mapping[str, Verdict],
    reader: Reader,
    bootstrap: Bootstrap,
) -> dict[str, Measured | None]:
    """WAR of what is chosen among the samples, and of the greedy completion on the same clips."""
    rows = [e for e in examined if e.samples]
    if not rows:
        return {}
    best = [best_by_judges(e.samples, verdicts.get(e.subject.clip_id, {})) for e in rows]
    answers = {
        "greedy.war": [e.subject.prediction for e in rows],
        "greedy.reader.war": [_read(e.subject.rationale, e, reader) for e in rows],
        "vote.war": [vote(e.samples) for e in rows],
        "reader.war": [read_all(e.samples, reader, e.labels) for e in rows],
        "judges.war": [None if b is None else b.prediction for b in best],
        "judges.reader.war": [
            _read(None if b is None else b.rationale, e, reader)
            for e, b in zip(rows, best, strict=True)
        ],
    }
    labels = [e.subject.label for e in rows]
    return {
        f"best_of.{key}": bootstrap.ratio(
            [answer == label for answer, label in zip(found, labels, strict=True)]
        )
        for key, found in answers.items()
    }


def _read(rationale: str | None, e: Examined, reader: Reader) -> str | None:
    return None if rationale is None else reader.answers([rationale], e.labels)[0]
