"""How good is what is chosen among sampled completions: by the judges, by the reader, by a vote.

How true the chosen rationale is, only a side file can say: the judges cannot measure what they
chose.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from r1omni.claims import Verdict
from r1omni.evaluation.audit.examine import Examined
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import Measured
from r1omni.judges.reader import Reader
from r1omni.judges.selection import best_by_judges, read_all
from r1omni.judging import Judgement


def vote(samples: Sequence[Judgement]) -> str | None:
    """The commonest prediction, the first of equals; None where no sample has one."""
    counts = Counter(s.prediction for s in samples if s.prediction is not None)
    return counts.most_common(1)[0][0] if counts else None


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
