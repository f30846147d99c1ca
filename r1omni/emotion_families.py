"""Which family an emotion word belongs to: our table of words and families.

emotion_families.csv, our own table, puts emotion words into families, and each family into one
group of four published theories: Ekman's (1992) basic emotions with contempt and neutral,
Plutchik's (1980) eight, the six of Shaver et al. (1987), and the quadrants of valence and arousal
of Russell (1980). The assignment of the words is ours.
"""

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

TABLE: Final[Path] = Path(__file__).with_name("emotion_families.csv")
GROUPINGS: Final[tuple[str, ...]] = ("ekman", "plutchik", "shaver", "quadrant")

GroupOf = Callable[[str], str | None]  # a word -> its group, None for an unknown word

_COLUMNS: Final = ("family", *GROUPINGS, "words")
_EDGES: Final = " \t\r\n.:!?\"'`*_()[]{}<>"
_NEGATIONS: Final = frozenset(
    {"not", "no", "non", "never", "cannot", "neither", "without", "lack", "hardly"}
)
_NOT: Final = ("n't", "n’t")  # noqa: RUF001
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
        if len(parts) > _LONGEST or any(p in _NEGATIONS or p.endswith(_NOT) for p in parts):
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


def names_emotion(word: str) -> bool:
    """Whether the word, or its base form, stands in our own table."""
    return families().family(word) is not None


def fold(label: str) -> str:
    """A label without the punctuation around it, in lower case, with single spaces."""
    return " ".join(label.strip(_EDGES).casefold().split())
