"""Emotion wheels that are brought for comparison with AffectGPT's published numbers.

AffectGPT (arXiv 2501.16566) maps a word to its base forms, those to synonyms, and the first synonym
in alphabetical order that a wheel has to the wheel's group. Words without a group are deleted on
both sides, so wrong words cost nothing: read wheels.py for the score that we report ourselves.
"""

import csv
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from r1omni.emotion_families import GroupOf, fold
from r1omni.evaluation.results import SetScores
from r1omni.evaluation.wheels import Words, set_scores

FORMS: Final[str] = "format_mapping"  # word -> base forms
SYNONYMS: Final[str] = "raw_mapping"  # base form -> synonyms

_BESIDE: Final = frozenset({"", ".md", ".txt"})  # of files that are no tables: a licence, a readme

Links = Mapping[str, tuple[str, ...]]


def read_wheels(folder: Path) -> dict[str, GroupOf]:
    """The wheels of a folder by name, each as a function from a word to its group.

    Each file is one table of words and targets: NAME.csv with the columns word,target, NAME.json
    with {word: target or [targets]}, or NAME.npz with the arrays word and target. The tables
    `format_mapping` and `raw_mapping` lead from a word to the words of the wheels; without them a
    word leads to itself. Every other table is a wheel. Raises ValueError, naming the file, for
    anything else but hidden files, texts (.txt, .md) and files without an ending, and for an
    archive that holds pickled objects, which are never loaded.
    """
    found = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
    paths = [path for path in found if path.suffix in _READERS]
    for path in found:
        if path not in paths and path.suffix not in _BESIDE:
            raise ValueError(
                f"{path}: no table that is read; bring it as NAME.csv, NAME.json or NAME.npz, or "
                "take it out of the folder. Pickles can run code and are never loaded"
            )
    tables = {path.stem: _read(path) for path in paths}
    if len(tables) != len(paths):
        raise ValueError(f"{folder}: two files of one name: {', '.join(p.name for p in paths)}")
    forms, synonyms = tables.pop(FORMS, None), tables.pop(SYNONYMS, None)
    if not tables:
        raise ValueError(f"{folder}: no wheel; expected NAME.csv, NAME.json or NAME.npz")
    return {name: _group_of(forms, synonyms, wheel) for name, wheel in tables.items()}


def affectgpt_scores(
    truth: Sequence[Words], predicted: Sequence[Words], group_of: GroupOf
) -> SetScores:
    """The set scores by AffectGPT's rules: a predicted word without a group is deleted."""
    known = [[word for word in words if group_of(word) is not None] for words in predicted]
    return set_scores(truth, known, group_of)


def _group_of(forms: Links | None, synonyms: Links | None, wheel: Links) -> GroupOf:
    def group_of(word: str) -> str | None:
        bases = (word,) if forms is None else forms.get(word, ())
        ends = [fold(end) for base in bases for end in _ends(synonyms, fold(base))]
        return next((wheel[end][0] for end in sorted(ends) if end in wheel), None)

    return group_of


def _ends(synonyms: Links | None, base: str) -> tuple[str, ...]:
    return (base,) if synonyms is None else synonyms.get(base, ())


def _read(path: Path) -> Links:
    links: dict[str, tuple[str, ...]] = {}
    try:
        for word, target in _READERS[path.suffix](path):
            if not target:
                raise ValueError(f"{path}: {word!r} has no target")
            links[fold(word)] = (*links.get(fold(word), ()), target)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected words and their targets: {error!r}") from error
    if not links:
        raise ValueError(f"{path}: no words; expected words and their targets")
    return links


def _read_csv(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["word"].strip(), row["target"].strip()


def _read_json(path: Path) -> Iterator[tuple[str, str]]:
    for word, targets in json.loads(path.read_text(encoding="utf-8")).items():
        for target in [targets] if isinstance(targets, str) else targets:
            yield word, target.strip()


def _read_npz(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, targets = arrays["word"], arrays["target"]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: holds pickled objects or is no npz archive; pickles can run code and are "
            "never loaded: bring the tables as CSV or JSON"
        ) from error
    if words.shape != targets.shape or words.ndim != 1:
        raise ValueError(
            f"{path}: {words.shape} words and {targets.shape} targets; expected one target a word"
        )
    yield from zip(map(str, words), map(str, targets), strict=True)


_READERS: Final = {".csv": _read_csv, ".json": _read_json, ".npz": _read_npz}
