"""Annotation files -> rows, each with its place; and what an adapter makes of a row."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1omni.corpora.clip import Reason, Reject, SoftLabel, Split


class CorpusError(ValueError):
    """A corpus that is not laid out as expected; the message names file, line and expectation."""


@dataclass(frozen=True)
class Listed:
    """A row that names a clip and its label, before anybody has looked at the file.

    `candidates` are the places, relative to the root, where copies of the corpus keep the file,
    the likeliest first. `anywhere`: where it lies in none of them, a file of one of these names
    that is the only one below the root is it. `start`, `end`: of a segment of the file, in seconds.
    """

    clip_id: str
    candidates: tuple[str, ...]
    label: str | None
    split: Split
    where: str
    fold: int | None = None
    subject: str | None = None
    rationale: str | None = None
    soft_label: SoftLabel | None = None
    anywhere: bool = False
    start: float | None = None
    end: float | None = None


def reject(corpus: str, where: str, reason: Reason, detail: str, path: str | None = None) -> Reject:
    """The rejected row; bytes that are no text are written as escapes."""
    return Reject(corpus, path and _printable(path), _printable(where), reason, _printable(detail))


def shown(text: str, width: int = 80) -> str:
    """`text` quoted for a message, cut to `width` characters."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def find_folder(parent: Path, pattern: str) -> Path | None:
    """The first folder in `parent` whose whole name matches `pattern`, in any case."""
    if not parent.is_dir():
        return None
    matches = (p for p in sorted(parent.iterdir()) if re.fullmatch(pattern, p.name, re.IGNORECASE))
    return next((p for p in matches if p.is_dir()), None)


def read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[str] | None]]:
    """Line number and the cells of the columns, stripped; None for a row of another width.

    A column of `optional` that is not there has empty cells. Raises CorpusError for a file that
    is no UTF-8 csv, or lacks a column or any row.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    expected = ",".join(columns)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise CorpusError(
                f"{path}:1: missing column {', '.join(missing)}; expected the header {expected}, "
                f"found {shown(','.join(header))}"
            )
        wanted = [header.index(c) if c in header else None for c in (*columns, *optional)]
        line, any_row = reader.line_num + 1, False
        for cells in reader:
            if cells:
                any_row = True
                whole = len(cells) == len(header)
                found = ["" if i is None else cells[i].strip() for i in wanted] if whole else None
                yield line, found
            line = reader.line_num + 1
    except csv.Error as error:
        message = f"{path}:{reader.line_num}: not a csv file ({error}); expected {expected}"
        raise CorpusError(message) from error
    if not any_row:
        raise CorpusError(f"{path}:2: no rows below the header; expected {expected}")


def read_csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and all cells, stripped, of every row. Raises CorpusError for no UTF-8 csv."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        line = 1
        for cells in reader:
            if any(cells):
                yield line, [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: not a csv file ({error})") from error


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every line that is not blank. Raises CorpusError if there is none."""
    lines = re.split(r"\r\n|\r|\n", read_text(path))
    if not any(line.strip() for line in lines):
        raise CorpusError(f"{path}:1: is empty; expected lines like {expected}")
    yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def read_json_list(path: Path, expected: str) -> list[Any]:
    """The entries of a JSON list. Raises CorpusError, with the line, for anything else."""
    text = read_text(path)
    try:
        entries = json.loads(text, parse_int=_parse_int)
    except RecursionError as error:
        message = f"{path}: nested too deeply; expected a JSON list of {expected}"
        raise CorpusError(message) from error
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        message = f"{path}:{line}: not JSON ({error}); expected a list of {expected}"
        raise CorpusError(message) from error
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else type(entries).__name__
        raise CorpusError(f"{path}:1: expected a JSON list of {expected}, found {found}")
    return entries


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark. Raises CorpusError."""
    refuse_special_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"{path}:{line}: byte 0x{content[error.start]:02x} is no UTF-8; expected text"
        raise CorpusError(message) from error


def refuse_special_file(path: Path) -> None:
    """Raise CorpusError for a list that is no regular file: a FIFO or device may never end."""
    if path.exists() and not path.is_file():
        raise CorpusError(f"{path}: is no regular file; move it away, or put the list there")


def _parse_int(digits: str) -> int | str:
    """The number; one so long that Python refuses it stays text, which no adapter takes for one."""
    return int(digits) if len(digits) <= 18 else digits


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
