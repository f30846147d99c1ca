"""DFEW: `video_name,label` lists, one pair per fold (Jiang et al. 2020, arXiv 2008.05924).

Copies differ in where they keep lists and clips and in whether clip numbers are padded. Where the
sheet of votes is there, each clip has a soft label too.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Reject, Split
from r1omni.corpora.ingestion.lists import CorpusError, Listed, find_folder, read_csv, reject, shown
from r1omni.corpora.ingestion.votes import read_votes, soft_label
from r1omni.corpora.record import Check, Corpus
from r1omni.emotions import in_order

_FOLDERS = ("Clip/original", "DFEW/videos", "clip", "videos", "Clip", "DFEW/Clip/original", ".")
_NUMBER = re.compile(r"0*(\d{1,12})(\.mp4)?", re.IGNORECASE)
_SHEETS: Final = r"annotations?\.(xlsx|csv)"  # of votes
_IDS: Final = {
    "1": "happy", "2": "sad", "3": "neutral", "4": "angry", "5": "surprise", "6": "disgust",
    "7": "fear",
}  # fmt: skip


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every row of the train and the test list of `fold`; no other fold's list is opened.

    Raises CorpusError if a list is not there or is no `video_name,label` table, or if there is a
    sheet of votes that is none.
    """
    sheet = find_votes(root)
    votes = read_votes(sheet, tuple(_IDS.values())) if sheet is not None else {}
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


def find_votes(root: Path) -> Path | None:
    """The sheet of votes, if this copy of the corpus has it."""
    folders = [found for parent in (root, root / "DFEW")
               if (found := find_folder(parent, "annotations?")) is not None]  # fmt: skip
    for folder in folders:
        names = sorted(p for p in folder.iterdir() if re.fullmatch(_SHEETS, p.name, re.IGNORECASE))
        if names:
            return names[-1]  # .xlsx before .csv: it is the original
    return None


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
    emotion = _IDS.get(label.lstrip("0")) if re.fullmatch(r"[0-9]{1,3}", label) else None
    if emotion is None:
        known = ", ".join(f"{i} {e}" for i, e in _IDS.items())
        detail = f"unknown label {shown(label)} for dfew; known: {known}"
        return reject("dfew", where, "unknown_label", detail, name)
    return Listed(f"dfew/{number}", candidates, emotion, split, where, fold=fold)


def _check_votes(root: Path) -> Check:
    sheet = find_votes(root)
    if sheet is None:
        return Check("note", "no Annotation/annotation.xlsx: clips will have no soft labels")
    try:
        n_clips = len(read_votes(sheet, tuple(_IDS.values())))
    except CorpusError as error:
        return Check("missing", str(error))
    return Check("ok", f"{sheet.relative_to(root)}: votes for {n_clips:,} clips")


CORPUS: Final = Corpus(  # counts: arXiv 2008.05924, and the lists themselves
    name="dfew",
    title="DFEW",
    about="DFEW: 16,372 film clips, 11,697 of them with one label and a face",
    ask="https://dfew-dataset.github.io (signed agreement; not to be passed on)",
    layout="Clip/original/N.mp4 and EmoLabel_DataSplit/{train,test}(single-labeled)/set_{1..5}.csv",
    read_rows=read_rows,
    splits=("train", "test"),
    labels=in_order(_IDS.values()),
    ids=_IDS,
    folds=5,
    folds_rows=((9356, 2341), (9356, 2341), (9357, 2340), (9358, 2339), (9361, 2336)),
    label_counts={"neutral": 534, "happy": 489, "angry": 435, "sad": 379, "surprise": 294,
                  "fear": 181, "disgust": 29},
    files=16372,
    examine=_check_votes,
)  # fmt: skip
