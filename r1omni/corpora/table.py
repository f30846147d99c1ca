"""A plain table of clips -> rows: `clips.csv` or `clips.parquet` in the root, and no module.

Columns: path (relative to the root), label, split (train or test); and, where there are any,
subject, rationale, start and end (seconds). Other columns are not read.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Reject
from r1omni.corpora.ingestion.lists import (
    CorpusError,
    Listed,
    read_csv,
    refuse_special_file,
    reject,
    shown,
)
from r1omni.corpora.record import Corpus, Role
from r1omni.emotions import EMOTIONS, canonical, in_order

TABLE: Final = "table"  # the adapter's name in params
FILES: Final = ("clips.csv", "clips.parquet")
COLUMNS: Final = ("path", "label", "split")
OPTIONAL: Final = ("subject", "rationale", "start", "end")

Cells = dict[str, str]


def table_corpus(name: str, labels: Sequence[str] | None = None) -> Corpus:
    """The record of the table that is listed as `name`; its clips have one of these labels.

    Without `labels` it is any known emotion.
    """
    known = EMOTIONS if labels is None else in_order(labels)
    return Corpus(
        name=name,
        title=name,
        about=f"{name}: a table of clips",
        ask="",
        layout=f"{' or '.join(FILES)} with the columns {', '.join(COLUMNS)}, and the clips that "
        f"it names, relative to it; optional columns: {', '.join(OPTIONAL)}",
        read_rows=partial(_read_rows, name, known),
        splits=("train", "test"),
        labels=known,
        labels_as_found=labels is None,
        has_rationales=True,
    )


def check_table(root: Path, key: str, roles: Sequence[Role]) -> None:
    """Raise CorpusError where the table at `root` lacks what a role of `corpora.key` needs."""
    path = find_table(root)
    rows = [cells for _, cells in _rows(path) if cells is not None]
    for role in roles:
        split = "test" if role == "test" else "train"
        found = [cells for cells in rows if cells["split"] == split]
        needed = f"a row whose split is {split}"
        if role == "cold_start":
            found = [cells for cells in found if cells["rationale"]]
            needed += " and which has a rationale"
        if not found:
            raise CorpusError(
                f"{path}: lacks {needed}; the role {role} of corpora.{key} needs such rows"
            )


def find_table(root: Path) -> Path:
    """The table in `root`. Raises CorpusError where there is none, or more than one."""
    found = [root / name for name in FILES if (root / name).exists()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "neither"
        raise CorpusError(f"{root}: holds {names}; expected one of {' and '.join(FILES)}")
    refuse_special_file(found[0])
    return found[0]


def _read_rows(
    name: str, labels: tuple[str, ...], root: Path, fold: int
) -> Iterator[Listed | Reject]:
    """Every row of the table. Raises CorpusError for a file that is no such table."""
    del fold
    path = find_table(root)
    for line, cells in _rows(path):
        where = f"{path.name}:{line}"
        if cells is None:
            detail = "more or fewer cells than the header has columns"
            yield reject(name, where, "malformed_row", detail)
        else:
            yield _read_row(name, labels, where, cells)


def _read_row(name: str, labels: tuple[str, ...], where: str, cells: Cells) -> Listed | Reject:
    path, split = cells["path"], cells["split"]
    if not path or split not in ("train", "test"):
        detail = f"path {shown(path)}, split {shown(split)}; expected a path, and train or test"
        return reject(name, where, "malformed_row", detail, path or None)
    label = canonical(cells["label"])
    if label is None or label not in labels:
        detail = f"unknown label {shown(cells['label'])} for {name}; known: {', '.join(labels)}"
        return reject(name, where, "unknown_label", detail, path)
    try:
        start, end = _segment(cells)
    except ValueError as error:
        return reject(name, where, "malformed_row", str(error), path)
    part = "" if start is None else f"#{start:.10g}-{end:.10g}"
    return Listed(
        f"{name}/{path}{part}",
        (path,),
        label,
        "train" if split == "train" else "test",
        where,
        subject=cells["subject"] or (path if part else None),  # one file, one split
        rationale=cells["rationale"] or None,
        start=start,
        end=end,
    )


def _segment(cells: Cells) -> tuple[float, float] | tuple[None, None]:
    """Start and end in seconds; None for the whole file. Raises ValueError for anything else."""
    texts = cells["start"], cells["end"]
    if not any(texts):
        return None, None
    try:
        start, end = (float(text) for text in texts)
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise ValueError(f"start {texts[0]!r}, end {texts[1]!r}; expected 0 <= start < end, in s")
    return start, end


def _rows(path: Path) -> Iterator[tuple[int, Cells | None]]:
    """Number and cells of every row: of a CSV its line, of parquet its place from 1."""
    read = read_csv if path.suffix == ".csv" else _read_parquet
    for line, cells in read(path, COLUMNS, OPTIONAL):
        yield line, None if cells is None else dict(zip((*COLUMNS, *OPTIONAL), cells, strict=True))


def _read_parquet(
    path: Path, columns: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, list[str] | None]]:
    """As `read_csv`: a row's place from 1 and its cells as text; an empty cell is ""."""
    import pyarrow.parquet as pq

    line = 0
    try:
        with pq.ParquetFile(path) as table:
            header = table.schema_arrow.names
            missing = [name for name in columns if name not in header]
            if missing:
                raise CorpusError(
                    f"{path}: missing column {', '.join(missing)}; expected {', '.join(columns)}, "
                    f"found {shown(', '.join(header))}"
                )
            read = [name for name in (*columns, *optional) if name in header]
            for batch in table.iter_batches(columns=read):
                for row in batch.to_pylist():
                    line += 1
                    values = (row.get(name) for name in (*columns, *optional))
                    yield line, ["" if value is None else str(value).strip() for value in values]
    except CorpusError:
        raise
    except (ValueError, OSError) as error:  # pyarrow raises either for bytes that are no table
        raise CorpusError(f"{path}: not a parquet file ({error})") from error
    if line == 0:
        raise CorpusError(f"{path}: no rows; expected {', '.join(columns)}")
