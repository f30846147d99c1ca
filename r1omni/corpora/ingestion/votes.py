"""A sheet of votes: how many annotators chose each emotion -> a soft label for each clip.

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
from r1omni.corpora.ingestion.lists import CorpusError, read_csv_rows, shown
from r1omni.corpora.ingestion.spreadsheet import read_xlsx
from r1omni.emotions import canonical

_CLIP_COLUMNS: Final = ("order", "video_name", "clip", "name", "video", "number", "id")

Votes = dict[int, dict[str, float]]


def read_votes(path: Path, emotions: tuple[str, ...]) -> Votes:
    """Clip number -> emotion -> votes, in the order of `emotions`.

    Raises CorpusError naming file, row and what was expected for a sheet that is none.
    """
    stat = path.stat()
    return _read_votes(path, emotions, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1)  # an ingestion asks twice, the doctor once a fold
def _read_votes(path: Path, emotions: tuple[str, ...], size: int, changed: int) -> Votes:
    del size, changed  # another file where they differ
    rows = read_xlsx(path) if path.suffix.lower() == ".xlsx" else read_csv_rows(path)
    first, header = next(rows, (1, []))
    columns = _columns(path, first, header, emotions)
    votes: Votes = {}
    for line, cells in rows:
        number, counts = _read_row(path, line, cells, columns)
        if number in votes:
            raise CorpusError(f"{path}:{line}: clip {number} stands there twice; expected one row")
        votes[number] = dict(zip(emotions, counts, strict=True))
    if not votes:
        raise CorpusError(f"{path}:{first + 1}: no rows below the header; expected votes")
    return votes


def soft_label(votes: Votes, number: int) -> SoftLabel | None:
    """The share of each emotion that anybody voted for; None where nobody voted."""
    counts = votes.get(number, {})
    total = sum(counts.values())
    return tuple((name, n / total) for name, n in counts.items() if n > 0) or None


def _columns(
    path: Path, line: int, header: list[str], emotions: tuple[str, ...]
) -> tuple[int, ...]:
    """Where the clip's number stands, and where each emotion's votes do."""
    names = [name.casefold() for name in header]
    clip = next((names.index(name) for name in _CLIP_COLUMNS if name in names), None)
    places = {canonical(re.sub(r"^\W*\d*\W*", "", name)): i for i, name in enumerate(names)}
    if clip is None or not set(emotions) <= set(places):
        wanted = ", ".join(f"{number}{name}" for number, name in enumerate(emotions, start=1))
        raise CorpusError(
            f"{path}:{line}: expected columns {wanted} and order; "
            f"found {shown(', '.join(header), 200)}"
        )
    return clip, *(places[name] for name in emotions)


def _read_row(
    path: Path, line: int, cells: list[str], columns: tuple[int, ...]
) -> tuple[int, tuple[float, ...]]:
    number, *counts = (cells[i] if i < len(cells) else "" for i in columns)
    match = re.fullmatch(r"0*(\d{1,9})(\.0+|\.mp4)?", number)
    values = tuple(_count(text) for text in counts)
    if match is None or any(math.isnan(value) for value in values):
        raise CorpusError(
            f"{path}:{line}: {shown(', '.join([number, *counts]))}; expected a clip's number and "
            f"the votes for {len(columns) - 1} emotions, each 0 or more"
        )
    return int(match[1]), values


def _count(text: str) -> float:
    """A number of votes; an empty cell is none, and whatever is no count is NaN."""
    if not text:
        return 0.0
    return float(text) if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", text) else math.nan
