"""MAFW: lines `00025.mp4 anger`, one pair of lists per fold (Liu et al. 2022, arXiv 2208.00847).

Only the single-label lists are read, and only names: integer ids differ from loader to loader.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from r1omni.corpora.clip import Reject, Split
from r1omni.corpora.lists import CorpusError, Listed, find_folder, read_lines, reject, shown
from r1omni.emotions import MAFW_NAMES

_FOLDERS = ("data/clips", "clips", "data/videos", "videos", "MAFW/data/clips", "data", ".")
_NUMBER = re.compile(r"(\d+)(\.mp4)?", re.IGNORECASE)
_EXPECTED = "'00025.mp4 anger'"


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every row of the train and the test list of `fold`; no other fold's list is opened.

    Raises CorpusError if a list is not there or empty.
    """
    splits: tuple[Split, ...] = ("train", "test")
    for split, path in [(split, find_list(root, split, fold)) for split in splits]:
        for line, text in read_lines(path, _EXPECTED):
            where = f"{path.relative_to(root).as_posix()}:{line}"
            yield _read_row(text, where, split, fold)


def find_list(root: Path, split: str, fold: int) -> Path:
    """The single-label list of `split` in `fold`. Raises CorpusError if there is none."""
    parts = f"single/no_caption/set_{fold}/{split}.txt"
    for parent in (root, root / "MAFW"):
        folder = find_folder(parent, r"train[\W_]*(and)?[\W_]*test[\W_]*set")
        if folder is not None and (folder / parts).is_file():
            return folder / parts
    raise CorpusError(
        f"{root}: no MAFW {split} list of fold {fold}; expected Train & Test Set/{parts}"
    )


def _read_row(text: str, where: str, split: Split, fold: int) -> Listed | Reject:
    cells = text.split()
    name = cells[0].replace("\\", "/")
    match = _NUMBER.fullmatch(name.rpartition("/")[2])
    if len(cells) != 2 or match is None:
        detail = f"{shown(text)}; expected a clip and a name like {_EXPECTED}"
        return reject("mafw", where, "malformed_row", detail)
    number = int(match[1])
    names = dict.fromkeys((f"{number:05d}.mp4", f"{match[1]}.mp4", f"{number}.mp4"))
    candidates = tuple(f"{folder}/{n}" for folder in _FOLDERS for n in names)
    if "/" in name:
        candidates = (name, *candidates)
    parts = re.split(r"[_-]", cells[1])
    if not all(part in MAFW_NAMES for part in parts):
        detail = f"unknown label {shown(cells[1])} for mafw; known: {', '.join(MAFW_NAMES)}"
        return reject("mafw", where, "unknown_label", detail, name)
    if len(parts) > 1:
        detail = f"compound label {shown(cells[1])}"
        return reject("mafw", where, "no_single_label", detail, name)
    return Listed(f"mafw/{number:05d}", candidates, MAFW_NAMES[parts[0]], split, where, fold=fold)
