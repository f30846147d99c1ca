"""The first sheet of an .xlsx file -> rows of text, with nothing but the standard library.

An .xlsx file is a zip of XML (ECMA-376). Only what an annotation sheet uses is read: shared and
inline strings, and numbers. No formula is evaluated and no entity is fetched.
"""

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final
from xml.etree import ElementTree as ET

from r1omni.corpora.ingestion.lists import CorpusError, refuse_special_file

_LARGEST: Final = 2**28  # bytes unpacked: a zip bomb is refused before it is opened
_WIDEST, _CELLS = 512, 10**7  # columns of a row, cells of a sheet; DFEW's has 9 and 150,000
_HELD: Final = 2**16  # XML elements in memory: those of one row, or of one shared string
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),  # the zip
    *(ET.ParseError, KeyError, IndexError, ValueError, RuntimeError),  # what it holds
)


def read_xlsx(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Row number and cells of each row of the first sheet that is not empty.

    Raises CorpusError naming the file, and the row where it is known, for one that is no workbook.
    """
    refuse_special_file(path)
    row = n_cells = 0
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError(f"unpacks to more than {_LARGEST} bytes")
            strings = _shared_strings(archive)
            with archive.open(_first_sheet(archive)) as sheet:
                for element in _elements(sheet, "row"):
                    row = int(element.get("r") or row + 1)
                    cells = _cells(element, strings)
                    n_cells += len(cells) or 1
                    if n_cells > _CELLS:
                        raise ValueError(f"more than {_CELLS} cells")
                    if any(cells):
                        yield row, cells
    except CorpusError:
        raise
    except _ERRORS as error:
        raise CorpusError(
            f"{path}:{row + 1}: cannot be read as a spreadsheet ({error}); expected an .xlsx file"
        ) from error


def _first_sheet(archive: zipfile.ZipFile) -> str:
    sheets = [name for name in archive.namelist()
              if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name)]  # fmt: skip
    if not sheets:
        raise ValueError("it has no sheet")
    return min(sheets, key=lambda name: int("".join(filter(str.isdigit, name))))


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    with archive.open("xl/sharedStrings.xml") as file:
        return [_text(element) for element in _elements(file, "si")]


def _elements(file: IO[bytes], tag: str) -> Iterator[ET.Element]:
    """The elements of this tag, each emptied once it has been used.

    Raises ValueError as soon as more than `_HELD` elements come before the end of one of them.
    """
    n_held = 0
    for _, element in ET.iterparse(file):
        n_held += 1
        if n_held > _HELD:
            raise ValueError(f"more than {_HELD} XML elements in one <{tag}>")
        if _tag(element) == tag:
            yield element
            element.clear()
            n_held = 0


def _cells(row: ET.Element, strings: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row:
        column = _column(cell.get("r") or "") if cell.get("r") else len(cells)
        if max(column, len(cells)) >= _WIDEST:
            raise ValueError(f"more than {_WIDEST} columns")
        cells += [""] * (column - len(cells))
        value = next((part.text or "" for part in cell if _tag(part) == "v"), "")
        kind = cell.get("t")
        if kind == "s":
            value = strings[int(value)]
        elif kind == "inlineStr":
            value = _text(cell)
        cells.append(value.strip())
    return cells


def _column(reference: str) -> int:
    """The column of a cell like "AB12", from 0."""
    match = re.match(r"[A-Z]{1,3}", reference)
    if match is None:
        raise ValueError(f"cell {reference!r} has no column")
    column = 0
    for letter in match[0]:
        column = 26 * column + ord(letter) - ord("A") + 1
    return column - 1


def _text(element: ET.Element) -> str:
    return "".join(part.text or "" for part in element.iter() if _tag(part) == "t")


def _tag(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]
