"""How well two sets of emotion words agree, by the families of the words.

A model may answer with words that no corpus has as a label (emotion_families.py).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from r1omni.emotion_families import GROUPINGS, GroupOf, families, fold
from r1omni.emotions import EMOTIONS
from r1omni.evaluation.results import SetScores, WordScores

Words = Sequence[str]

_SEPARATORS: Final = re.compile(r"[,;\n]|\band\b", re.IGNORECASE)


def split_labels(answer: str | None) -> tuple[str, ...]:
    """The labels of an answer, each once: split at commas, semicolons, line ends and "and"."""
    parts = (fold(part) for part in _SEPARATORS.split(answer or ""))
    return tuple(dict.fromkeys(part for part in parts if part))


def set_scores(truth: Sequence[Words], predicted: Sequence[Words], group_of: GroupOf) -> SetScores:
    """How well the sets of predicted words agree with the true ones, by the groups of the words.

    Precision and recall are of the sets of groups of one clip, averaged over the clips; F is the
    harmonic mean of the two averages; `hit` is the share of clips with a common group. An unknown
    predicted word is a group of its own, hence wrong. An unknown true word is left out, and so is a
    clip without any other. An empty prediction has precision and recall 0. Raises ValueError for
    lists of different lengths.
    """
    precisions, recalls = [], []
    for true_words, words in zip(truth, predicted, strict=True):
        wanted = {group for word in true_words if (group := group_of(word)) is not None}
        if not wanted:
            continue
        known = {group for word in words if (group := group_of(word)) is not None}
        unknown = {fold(word) for word in words if group_of(word) is None}
        given, common = len(known) + len(unknown), len(wanted & known)
        precisions.append(common / given if given else 0.0)
        recalls.append(common / len(wanted))
    if not recalls:
        return SetScores(precision=0.0, recall=0.0, f=0.0, hit=0.0, n=0)
    precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
    return SetScores(
        precision=precision,
        recall=recall,
        f=f_of(precision, recall),
        hit=float(np.mean([r > 0 for r in recalls])),
        n=len(recalls),
    )


def f_of(precision: float, recall: float) -> float:
    """The harmonic mean of precision and recall; 0 if both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def word_scores(truth: Sequence[Words], predicted: Sequence[Words]) -> WordScores:
    """The set scores in every grouping, and what is reported beside them (see WordScores)."""
    table = families()
    groupings = {g: set_scores(truth, predicted, table.grouping(g)) for g in GROUPINGS}
    said = [word for words in predicted for word in words]
    return WordScores(
        groupings=groupings,
        f=_mean_f(groupings),
        oov_rate=sum(table.family(word) is None for word in said) / len(said) if said else 0.0,
        set_size=len(said) / len(predicted) if predicted else 0.0,
        unknown_truth=sum(table.family(word) is None for words in truth for word in words),
        baselines={
            name: _mean_f({g: set_scores(truth, same, table.grouping(g)) for g in GROUPINGS})
            for name, same in baselines(truth).items()
        },
    )


def baselines(truth: Sequence[Words]) -> dict[str, list[Words]]:
    """What two trivial models answer: all twelve labels, or the three commonest true words."""
    counts = Counter(word for words in truth for word in words)
    commonest = tuple(sorted(counts, key=lambda word: (-counts[word], word))[:3])
    return {"all twelve": [EMOTIONS] * len(truth), "three commonest": [commonest] * len(truth)}


def _mean_f(groupings: Mapping[str, SetScores]) -> float:
    return float(np.mean([scores.f for scores in groupings.values()]))
