"""Sets of emotion words: which family a word belongs to, and how well two sets agree.

A model may answer with words that no corpus has as a label. emotion_families.csv, our own table,
puts emotion words into families, and each family into one group of four published theories: Ekman's
(1992) basic emotions with contempt and neutral, Plutchik's (1980) eight, the six of Shaver et al.
(1987), and the quadrants of valence and arousal of Russell (1980). The assignment of the words is
ours.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from r1omni.emotions import EMOTIONS
from r1omni.evaluation.results import SetScores, WordScores

TABLE: Final[Path] = Path(__file__).with_name("emotion_families.csv")
GROUPINGS: Final[tuple[str, ...]] = ("ekman", "plutchik", "shaver", "quadrant")

Words = Sequence[str]
GroupOf = Callable[[str], str | None]  # a word -> its group, None for an unknown word

_COLUMNS: Final = ("family", *GROUPINGS, "words")
_EDGES: Final = " \t\r\n.:!?\"'`*_()[]{}<>"
_SEPARATORS: Final = re.compile(r"[,;\n]|\band\b", re.IGNORECASE)
_NEGATIONS: Final = frozenset({"not", "no", "non", "never", "neither", "without", "lack", "hardly"})
_LONGEST: Final = 3  # words of a phrase that may name one family
# An inflected ending and what stands in its place in the base form; the first that is known counts.
_SUFFIXES: Final[tuple[tuple[str, str], ...]] = (
    ("iness", "y"), ("ness", ""), ("ily", "y"), ("ically", "ic"), ("ly", ""), ("ly", "le"),
    ("ies", "y"), ("ied", "y"), ("ying", "y"), ("ying", "ied"), ("ing", ""), ("ing", "e"),
    ("ing", "ed"), ("ed", ""), ("ed", "e"), ("es", ""), ("s", ""), ("ier", "y"), ("iest", "y"),
    ("er", ""), ("est", ""), ("ful", ""), ("ment", "ed"), ("ment", ""), ("ion", "ed"),
    ("ion", "e"), ("bility", "ble"), ("ity", ""), ("ity", "e"), ("ety", "ous"),
    ("ance", "ed"), ("ence", "ent"),
)  # fmt: skip


@dataclass(frozen=True)
class Families:
    """The table: each word's family, and each family's group by grouping."""

    family_of: Mapping[str, str]
    groups: Mapping[str, Mapping[str, str]]  # family -> grouping -> group

    def family(self, label: str) -> str | None:
        """The family that a label names, None for an unknown label.

        A label is the table's word itself, else a word with a known ending (`_SUFFIXES`), else a
        phrase of at most three words that names exactly one family. A phrase with "not" is unknown.
        """
        word = fold(label)
        if (found := self._word(word)) is not None:
            return found
        parts = re.split(r"[\s-]+", word)
        if len(parts) > _LONGEST or any(p in _NEGATIONS or p.endswith("n't") for p in parts):
            return None
        named = {family for part in parts if (family := self._word(part)) is not None}
        return named.pop() if len(named) == 1 else None

    def grouping(self, name: str) -> GroupOf:
        """The groups of one of GROUPINGS, as a function of a label."""

        def group_of(label: str) -> str | None:
            family = self.family(label)
            return None if family is None else self.groups[family][name]

        return group_of

    def _word(self, word: str) -> str | None:
        if word in self.family_of:
            return self.family_of[word]
        bases = (word[: -len(end)] + base for end, base in _SUFFIXES if word.endswith(end))
        return next((self.family_of[base] for base in bases if base in self.family_of), None)


def read_families(path: Path) -> Families:
    """The families of a table; `words` are separated by spaces.

    Raises ValueError, naming file and line, for other columns, an empty cell, a family that stands
    twice, and a word in two places.
    """
    family_of: dict[str, str] = {}
    places: dict[str, int] = {}
    groups: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"{path}:1: columns {reader.fieldnames}, expected {list(_COLUMNS)}")
        for line, row in enumerate(reader, start=2):
            where, family = f"{path}:{line}", row["family"]
            if None in row or not all(row.values()):
                raise ValueError(f"{where}: expected a value for each of {list(_COLUMNS)}")
            if family in groups:
                raise ValueError(f"{where}: the family {family!r} stands twice")
            groups[family] = {name: row[name] for name in GROUPINGS}
            for word in row["words"].split():
                if fold(word) != word:
                    raise ValueError(f"{where}: {word!r} is to be written {fold(word)!r}")
                if word in places:
                    raise ValueError(f"{where}: {word!r} is in line {places[word]}, too")
                places[word], family_of[word] = line, family
    return Families(family_of, groups)


@cache
def families() -> Families:
    """The families of our own table."""
    return read_families(TABLE)


def fold(label: str) -> str:
    """A label without the punctuation around it, in lower case, with single spaces."""
    return " ".join(label.strip(_EDGES).casefold().split())


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
