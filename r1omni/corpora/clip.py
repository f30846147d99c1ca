"""The manifest row, the rejects row, and their parquet files."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

Parsed = TypeVar("Parsed")
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

SoftLabel = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Clip:
    """One short labelled video file of a corpus: one manifest row.

    `path` is relative to the corpus root, `duration` in seconds, `fps` in frames a second. `label`
    is canonical (emotions.py) or None where the clip carries only a text or a compound emotion;
    `rationale` is None where the corpus has none. `fold` is None where the corpus has no folds.
    `soft_label` holds each canonical label with its share of the annotators' votes (or of a
    compound emotion), summing to 1, or None where nobody counted. `audio_duration`: the sound's
    length in seconds, 0 without sound; what is longer than media.audio_seconds is cut. Where there
    is `digital_silence`, every sample of the sound is 0. `lost_packets` of the sound could not be
    decoded and are silence. By the prints (prints.py) copies are found; None where sound or picture
    is too little to go by. Manifests from before these five columns have none of them. A clip
    that is a segment of its file goes from `start` to `end`, in seconds from the first picture.
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
    soft_label: SoftLabel | None = None
    audio_duration: float = 0.0
    digital_silence: bool = False
    lost_packets: int = 0
    sound_print: str | None = None
    picture_print: str | None = None
    start: float | None = None
    end: float | None = None


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
_SOUND = {"audio_duration": "float64", "digital_silence": "bool", "lost_packets": "int64"}
_PRINTS = {"sound_print": "string", "picture_print": "string"}
_SEGMENT = {"start": "float64", "end": "float64"}  # where a corpus has clips that are segments
_SOFT_LABEL = "soft_label"  # JSON; stands only in the manifest of a corpus whose votes are known
_ROWS = 1024  # written at once: what bounds the memory
_NOTE = b"r1omni"  # a parquet file's metadata: JSON on what its rows are about


def write_manifest(
    clips: Iterable[Clip], path: Path, *, note: Mapping[str, Any] | None = None
) -> None:
    """Write the manifest sorted by clip_id, atomically; `note`: see `read_note`."""
    ordered = sorted(clips, key=lambda clip: clip.clip_id)
    soft = any(clip.soft_label for clip in ordered)
    cut = any(clip.start is not None for clip in ordered)
    write_sorted_manifest(ordered, path, soft=soft, cut=cut, note=note)


def write_sorted_manifest(
    clips: Iterable[Clip],
    path: Path,
    *,
    soft: bool,
    cut: bool,
    note: Mapping[str, Any] | None = None,
) -> None:
    """Write clips that come sorted by clip_id, a few at a time.

    `soft`: with their soft labels; `cut`: with the starts and ends of those that are segments.
    """
    dtypes = _DTYPES | _SOUND | _PRINTS
    dtypes |= ({_SOFT_LABEL: "string"} if soft else {}) | (_SEGMENT if cut else {})
    _write((_cells(clip) for clip in clips), dtypes, path, note)


def read_manifest(path: Path) -> list[Clip]:
    """The clips of a manifest. Raises ValueError naming the file if it is none."""
    rows = _read(path, "manifest", list(_DTYPES), [*_SOUND, *_PRINTS, _SOFT_LABEL, *_SEGMENT])
    return [Clip(**row | _soft_label(path, row)) for row in rows]


def write_rejects(rejects: Iterable[Reject], path: Path) -> None:
    """Write the rejects table atomically, in the order in which they come."""
    dtypes = dict.fromkeys((f.name for f in fields(Reject)), "string")
    _write((asdict(reject) for reject in rejects), dtypes, path)


def read_rejects(path: Path) -> list[Reject]:
    """The rejects of an ingestion. Raises ValueError naming the file if it is none."""
    return [Reject(**row) for row in _read(path, "rejects table", [f.name for f in fields(Reject)])]


def note_metadata(note: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The note as a parquet file's metadata."""
    return {_NOTE: json.dumps(note, sort_keys=True).encode()}


def read_note(path: Path, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed | None:
    """What `parse` makes of a parquet file's note on all of its rows; None where it notes nothing.

    A manifest notes the origin of its clips, predictions the model and the corpora's origins.
    Raises ValueError, naming the file, for one that is no parquet file, and for a note that `parse`
    does not take.
    """
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        text = metadata.get(_NOTE)
        note: dict[str, Any] | None = None if text is None else json.loads(text)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: its metadata cannot be read: {error}") from error
    if note is None:
        return None
    try:
        return parse(note)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: the note in its metadata: {error!r}") from error


def _cells(clip: Clip) -> dict[str, Any]:
    soft = clip.soft_label
    return asdict(clip) | {_SOFT_LABEL: None if soft is None else json.dumps(dict(soft))}


def _soft_label(path: Path, row: dict[str, Any]) -> dict[str, SoftLabel | None]:
    text = row.get(_SOFT_LABEL)
    if text is None:
        return {_SOFT_LABEL: None}
    try:
        shares = {str(label): float(share) for label, share in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: clip {row['clip_id']!r}: soft_label is {text!r}; "
            'expected JSON like {"happy": 0.7, "sad": 0.3}'
        ) from error
    return {_SOFT_LABEL: tuple(shares.items())}


def _read(
    path: Path, kind: str, columns: list[str], optional: Iterable[str] = ()
) -> list[dict[str, Any]]:
    import pandas as pd  # late, here and below: params are checked with this module's types

    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a {kind}")
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow raises either for bytes that are no table
        raise ValueError(f"{path}: not a parquet file; expected a {kind}: {error}") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: missing columns {missing}; a {kind} has {columns}")
    columns = [*columns, *(name for name in optional if name in table.columns)]
    records = table[columns].astype(object).where(lambda t: t.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in records.to_dict("records")]


def _write(
    rows: Iterable[dict[str, Any]],
    dtypes: dict[str, str],
    path: Path,
    note: Mapping[str, Any] | None = None,
) -> None:
    """Rows of the columns in `dtypes`, `_ROWS` in memory at a time."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    empty = pd.DataFrame(columns=list(dtypes)).astype(dtypes)
    schema = pa.Schema.from_pandas(empty, preserve_index=False)
    if note is not None:
        schema = schema.with_metadata({**(schema.metadata or {}), **note_metadata(note)})
    with pq.ParquetWriter(partial, schema) as writer:
        for group in _groups(iter(rows)):
            table = pd.DataFrame(group, columns=list(dtypes)).astype(dtypes)
            writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))
    partial.replace(path)


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _ROWS)):
        yield group
