"""MAFW: lines `00025.mp4 anger`, one pair of lists per fold (Liu et al. 2022, arXiv 2208.00847).

`single` lists the clips with one emotion, `compound` those with several, joined by `_` or `-`.
Only names are read: integer ids differ from loader to loader.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Reject, SoftLabel, Split
from r1omni.corpora.ingestion.lists import (
    CorpusError,
    Listed,
    find_folder,
    read_lines,
    reject,
    shown,
)
from r1omni.corpora.record import Corpus
from r1omni.emotions import in_order

_FOLDERS = ("data/clips", "clips", "data/videos", "videos", "MAFW/data/clips", "data", ".")
_NUMBER = re.compile(r"(\d{1,12})(\.mp4)?", re.IGNORECASE)
_EXPECTED = "'00025.mp4 anger'"
NAMES: Final = {
    "anger": "angry", "disgust": "disgust", "fear": "fear", "happiness": "happy",
    "neutral": "neutral", "sadness": "sad", "surprise": "surprise", "contempt": "contemptuous",
    "anxiety": "anxious", "helplessness": "helpless", "disappointment": "disappointed",
}  # fmt: skip


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every row of the single-label train and test lists of `fold`; no other fold's are opened.

    A compound label is rejected here. Raises CorpusError if a list is not there or empty.
    """
    yield from _read_lists(root, fold, "single")


def read_compound_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every row of the compound lists of `fold`, in which a clip may have several emotions.

    Such a clip has no label, but a soft label: equal shares for its emotions. Raises CorpusError
    if a list is not there or empty.
    """
    yield from _read_lists(root, fold, "compound")


def find_list(root: Path, split: str, fold: int, kind: str = "single") -> Path:
    """The list of `split` in `fold`, `single` or `compound`. Raises CorpusError without one."""
    parts = f"{kind}/no_caption/set_{fold}/{split}.txt"
    for parent in (root, root / "MAFW"):
        folder = find_folder(parent, r"train[\W_]*(and)?[\W_]*test[\W_]*set")
        if folder is not None and (folder / parts).is_file():
            return folder / parts
    raise CorpusError(
        f"{root}: no MAFW {split} list of fold {fold}; expected Train & Test Set/{parts}"
    )


def _read_lists(root: Path, fold: int, kind: str) -> Iterator[Listed | Reject]:
    splits: tuple[Split, ...] = ("train", "test")
    for split, path in [(split, find_list(root, split, fold, kind)) for split in splits]:
        for line, text in read_lines(path, _EXPECTED):
            where = f"{path.relative_to(root).as_posix()}:{line}"
            yield _read_row(text, where, split, fold, kind)


def _read_row(text: str, where: str, split: Split, fold: int, kind: str) -> Listed | Reject:
    corpus = "mafw" if kind == "single" else "mafw_compound"
    cells = text.split()
    name = cells[0].replace("\\", "/")
    match = _NUMBER.fullmatch(name.rpartition("/")[2])
    if len(cells) != 2 or match is None:
        detail = f"{shown(text)}; expected a clip and a name like {_EXPECTED}"
        return reject(corpus, where, "malformed_row", detail)
    number = int(match[1])
    names = dict.fromkeys((f"{number:05d}.mp4", f"{match[1]}.mp4", f"{number}.mp4"))
    candidates = tuple(f"{folder}/{n}" for folder in _FOLDERS for n in names)
    if "/" in name:
        candidates = (name, *candidates)
    parts = re.split(r"[_-]", cells[1])
    if not all(part in NAMES for part in parts):
        detail = f"unknown label {shown(cells[1])} for mafw; known: {', '.join(NAMES)}"
        return reject(corpus, where, "unknown_label", detail, name)
    labels = tuple(dict.fromkeys(NAMES[part] for part in parts))
    if len(labels) > 1 and kind == "single":
        detail = f"compound label {shown(cells[1])}; the corpus mafw_compound keeps such clips"
        return reject(corpus, where, "no_single_label", detail, name)
    label, shares = (labels[0], None) if len(labels) == 1 else (None, _equal_shares(labels))
    return Listed(
        f"{corpus}/{number:05d}", candidates, label, split, where, fold=fold, soft_label=shares
    )


def _equal_shares(labels: tuple[str, ...]) -> SoftLabel:
    return tuple((label, 1 / len(labels)) for label in labels)


CORPUS: Final = Corpus(  # counts: arXiv 2208.00847, and the lists themselves
    name="mafw",
    title="MAFW",
    about="MAFW: 10,045 clips, 9,172 of them with a single label",
    ask="https://mafw-database.github.io/MAFW (signed agreement; not to be passed on)",
    layout="data/clips/00025.mp4 and Train & Test Set/single/no_caption/set_{1..5}/"
    "{train,test}.txt",
    read_rows=read_rows,
    splits=("train", "test"),
    labels=in_order(NAMES.values()),
    ids=NAMES,
    folds=5,
    folds_rows=((7333, 1839), (7335, 1837), (7339, 1833), (7340, 1832), (7341, 1831)),
    files=10045,
)
