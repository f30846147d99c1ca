"""The manifest row, the rejects row, and their parquet files."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

Split = Literal["train", "test"]

Reason = Literal[
    "missing_file",
    "unreadable",
    "unknown_label",
    "no_single_label",
    "duplicate",
    "wrong_modality",
    "no_audio",
    "escapes_root",
    "malformed_row",
]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True)
class Clip:
    """One short labelled video file of a corpus: one manifest row.

    `path` is relative to the corpus root, `duration` in seconds, `fps` in frames a second. `label`
    is canonical (emotions.py) or None where the clip carries only a text; `rationale` is None
    where the corpus has none. `fold` is None where the corpus has no folds.
    """

    clip_id: str
    corpus: str
    path: str
    label: str | None
    split: Split
    fold: int | None
    subject: str | None
    rationale: str | None
    duration: float
    fps: float
    n_frames: int
    has_audio: bool
    sha256: str


@dataclass(frozen=True)
class Reject:
    """A row that did not become a clip, and why. `where` is "list file:line" or an entry's name."""

    corpus: str
    path: str | None
    where: str
    reason: Reason
    detail: str


_DTYPES = {
    "clip_id": "string",
    "corpus": "string",
    "path": "string",
    "label": "string",
    "split": "string",
    "fold": "Int64",
    "subject": "string",
    "rationale": "string",
    "duration": "float64",
    "fps": "float64",
    "n_frames": "int64",
    "has_audio": "bool",
    "sha256": "string",
}


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """Write the manifest sorted by clip_id, atomically."""
    rows = sorted((asdict(clip) for clip in clips), key=lambda row: row["clip_id"])
    _write(pd.DataFrame(rows, columns=list(_DTYPES)).astype(_DTYPES), path)


def read_manifest(path: Path) -> list[Clip]:
    """The clips of a manifest. Raises ValueError naming the file if it is none."""
    return [Clip(**row) for row in _read(path, "manifest", list(_DTYPES))]


def write_rejects(rejects: Iterable[Reject], path: Path) -> None:
    """Write the rejects table atomically, in the order in which they were met."""
    columns = [f.name for f in fields(Reject)]
    table = pd.DataFrame([asdict(r) for r in rejects], columns=columns).astype("string")
    _write(table, path)


def read_rejects(path: Path) -> list[Reject]:
    """The rejects of an ingestion. Raises ValueError naming the file if it is none."""
    return [Reject(**row) for row in _read(path, "rejects table", [f.name for f in fields(Reject)])]


def _read(path: Path, kind: str, columns: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a {kind}")
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow raises either for bytes that are no table
        raise ValueError(f"{path}: not a parquet file; expected a {kind}: {error}") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: missing columns {missing}; a {kind} has {columns}")
    records = table[columns].astype(object).where(lambda t: t.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in records.to_dict("records")]


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_parquet(partial, index=False)
    partial.replace(path)
