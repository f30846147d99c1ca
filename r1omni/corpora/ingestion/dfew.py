"""DFEW: `video_name,label` lists, one pair per fold (Jiang et al. 2020, arXiv 2008.05924).

Copies differ in where they keep lists and clips and in whether clip numbers are padded. Where the
sheet of votes is there, each clip has a soft label too.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from r1omni.corpora.clip import Reject, Split
from r1omni.corpora.ingestion.lists import CorpusError, Listed, find_folder, read_csv, reject, shown
from r1omni.corpora.ingestion.votes import find_votes, read_votes, soft_label
from r1omni.emotions import DFEW_IDS

_FOLDERS = ("Clip/original", "DFEW/videos", "clip", "videos", "Clip", "DFEW/Clip/original", ".")
_NUMBER = re.compile(r"0*(\d{1,12})(\.mp4)?", re.IGNORECASE)


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every row of the train and the test list of `fold`; no other fold's list is opened.

    Raises CorpusError if a list is not there or is no `video_name,label` table, or if there is a
    sheet of votes that is none.
    """
    sheet = find_votes(root)
    votes = read_votes(sheet) if sheet is not None else {}
    splits: tuple[Split, ...] = ("train", "test")
    for split, path in [(split, find_list(root, split, fold)) for split in splits]:
        for line, cells in read_csv(path, ("video_name", "label")):
            where = f"{path.relative_to(root).as_posix()}:{line}"
            if cells is None:
                yield reject("dfew", where, "malformed_row", "expected two cells video_name,label")
            else:
                row = _read_row(cells[0], cells[1], where, split, fold)
                if isinstance(row, Listed):
                    number = int(row.clip_id.rpartition("/")[2])
                    row = replace(row, soft_label=soft_label(votes, number))
                yield row


def find_list(root: Path, split: str, fold: int) -> Path:
    """The list of `split` in `fold`, in either layout. Raises CorpusError if there is none."""
    for parent in (root, root / "DFEW"):
        folder = find_folder(
            parent / "EmoLabel_DataSplit", rf"{split}[\W_]*single[-_ ]?label(l?ed)?[\W_]*"
        )
        places = [parent / "label" / f"single_{split}set_{fold}.csv"]
        if folder is not None:
            places.insert(0, folder / f"set_{fold}.csv")
        for place in places:
            if place.is_file():
                return place
    raise CorpusError(
        f"{root}: no DFEW {split} list of fold {fold}; expected "
        f"EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv "
        f"or label/single_{split}set_{fold}.csv"
    )


def _read_row(name: str, label: str, where: str, split: Split, fold: int) -> Listed | Reject:
    plain = name.replace("\\", "/").removesuffix("/")
    match = _NUMBER.fullmatch(plain.rpartition("/")[2])
    if match is None:
        detail = f"video_name {shown(name)}; expected a clip number like 1 or 00001.mp4"
        return reject("dfew", where, "malformed_row", detail)
    number = int(match[1])
    names = dict.fromkeys((f"{number}.mp4", f"{number:05d}.mp4"))
    candidates = tuple(f"{folder}/{n}" for folder in _FOLDERS for n in names)
    if "/" in plain:
        candidates = (plain, *candidates)
    if label == "0":
        detail = "label 0: the annotators did not agree on one emotion"
        return reject("dfew", where, "no_single_label", detail, name)
    emotion = DFEW_IDS.get(int(label)) if re.fullmatch(r"[0-9]{1,3}", label) else None
    if emotion is None:
        known = ", ".join(f"{i} {e}" for i, e in DFEW_IDS.items())
        detail = f"unknown label {shown(label)} for dfew; known: {known}"
        return reject("dfew", where, "unknown_label", detail, name)
    return Listed(f"dfew/{number}", candidates, emotion, split, where, fold=fold)
