"""DFEW's sheet of votes: about ten annotators a clip -> a soft label for each clip.

`Annotation/annotation.xlsx` has one column of votes per emotion (`1happy` … `7fear`) and one,
`order`, with the clip's number (Jiang et al. 2020, arXiv 2008.05924). Copies without it are whole:
their clips have no soft labels.
"""

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import SoftLabel
from r1omni.corpora.ingestion.lists import CorpusError, find_folder, read_csv_rows, shown
from r1omni.corpora.ingestion.spreadsheet import read_xlsx
from r1omni.emotions import DFEW_IDS, canonical

_EMOTIONS: Final = tuple(DFEW_IDS.values())
_CLIP_COLUMNS: Final = ("order", "video_name", "clip", "name", "video", "number", "id")
_NAMES: Final = r"annotations?\.(xlsx|csv)"
EXPECTED: Final = "columns 1happy, 2sad, 3neutral, 4angry, 5surprise, 6disgust, 7fear and order"

Votes = dict[int, tuple[float, ...]]


def find_votes(root: Path) -> Path | None:
    """The sheet of votes, if this copy of the corpus has it."""
    folders = [found for parent in (root, root / "DFEW")
               if (found := find_folder(parent, "annotations?")) is not None]  # fmt: skip
    for folder in folders:
        names = sorted(p for p in folder.iterdir() if re.fullmatch(_NAMES, p.name, re.IGNORECASE))
        if names:
            return names[-1]  # .xlsx before .csv: it is the original
    return None


def read_votes(path: Path) -> Votes:
    """Votes by clip number, in the order of DFEW's ids.

    Raises CorpusError naming file, row and what was expected for a sheet that is none.
    """
    stat = path.stat()
    return _read_votes(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1)  # an ingestion asks twice, the doctor once a fold
def _read_votes(path: Path, size: int, changed: int) -> Votes:
    del size, changed  # another file where they differ
    rows = read_xlsx(path) if path.suffix.lower() == ".xlsx" else read_csv_rows(path)
    first, header = next(rows, (1, []))
    columns = _columns(path, first, header)
    votes: Votes = {}
    for line, cells in rows:
        number, counts = _read_row(path, line, cells, columns)
        if number in votes:
            raise CorpusError(f"{path}:{line}: clip {number} stands there twice; expected one row")
        votes[number] = counts
    if not votes:
        raise CorpusError(f"{path}:{first + 1}: no rows below the header; expected votes")
    return votes


def soft_label(votes: Votes, number: int) -> SoftLabel | None:
    """The share of each emotion that anybody voted for; None where nobody voted."""
    counts = votes.get(number)
    total = sum(counts or ())
    if counts is None or total <= 0:
        return None
    return tuple((name, n / total) for name, n in zip(_EMOTIONS, counts, strict=True) if n > 0)


def _columns(path: Path, line: int, header: list[str]) -> tuple[int, ...]:
    """Where the clip's number stands, and where each emotion's votes do."""
    names = [name.casefold() for name in header]
    clip = next((names.index(name) for name in _CLIP_COLUMNS if name in names), None)
    emotions = {canonical(re.sub(r"^\W*\d*\W*", "", name)): i for i, name in enumerate(names)}
    if clip is None or not set(_EMOTIONS) <= set(emotions):
        raise CorpusError(
            f"{path}:{line}: expected {EXPECTED}; found {shown(', '.join(header), 200)}"
        )
    return clip, *(emotions[name] for name in _EMOTIONS)


def _read_row(
    path: Path, line: int, cells: list[str], columns: tuple[int, ...]
) -> tuple[int, tuple[float, ...]]:
    number, *counts = (cells[i] if i < len(cells) else "" for i in columns)
    match = re.fullmatch(r"0*(\d{1,9})(\.0+|\.mp4)?", number)
    values = tuple(_count(text) for text in counts)
    if match is None or any(math.isnan(value) for value in values):
        raise CorpusError(
            f"{path}:{line}: {shown(', '.join([number, *counts]))}; expected a clip's number and "
            "the votes for seven emotions, each 0 or more"
        )
    return int(match[1]), values


def _count(text: str) -> float:
    """A number of votes; an empty cell is none, and whatever is no count is NaN."""
    if not text:
        return 0.0
    return float(text) if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", text) else math.nan
