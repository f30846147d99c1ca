"""The first sheet of an .xlsx file -> rows of text, by openpyxl, within bounds."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import ParseError

from r1omni.corpora.ingestion.lists import CorpusError, refuse_special_file

_LARGEST: Final = 2**25  # bytes unpacked, some six times a sheet of votes: a row is held whole
_WIDEST, _ROWS = 512, 2**20  # columns and rows; a sheet of votes has 9 and 16,373
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError)
_XML_ERRORS = (ParseError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)


def read_xlsx(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Row number and cells of each row of the first sheet that is not empty.

    Raises CorpusError naming the file, and the row where it is known, for one that is no workbook.
    """
    from openpyxl import load_workbook  # late: few corpora have such a sheet

    refuse_special_file(path)
    row = 0
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError(f"unpacks to more than {_LARGEST} bytes")
        with closing(load_workbook(path, read_only=True, data_only=True)) as workbook:
            sheet = workbook.worksheets[0]
            sheet.reset_dimensions()  # what the file says of its size is not believed
            for row, values in enumerate(sheet.iter_rows(values_only=True), start=1):
                if len(values) > _WIDEST or row > _ROWS:
                    raise ValueError(f"more than {_WIDEST} columns or {_ROWS} rows")
                cells = ["" if value is None else str(value).strip() for value in values]
                if any(cells):
                    yield row, cells
    except (*_ZIP_ERRORS, *_XML_ERRORS) as error:
        raise CorpusError(
            f"{path}:{row + 1}: cannot be read as a spreadsheet ({error}); expected an .xlsx file"
        ) from error
