"""What an ingestion has found out so far, in a SQLite file: flat memory, and a kill costs little.

The table `findings` has a row for each file that has been opened. It outlives the ingestion, so
that a killed one goes on and another fold opens no file twice. What became of the rows of the
ingestion that is running stands in temporary tables.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Final

from r1omni import media
from r1omni.corpora import content
from r1omni.corpora.clip import Clip, Reject
from r1omni.corpora.ingestion import prints, probing
from r1omni.corpora.ingestion.probing import Finding
from r1omni.media import Segment, Source, file_of

_log = logging.getLogger(__name__)

_FINDINGS: Final = """
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS findings (path TEXT PRIMARY KEY, stamp TEXT, found TEXT) WITHOUT ROWID;
"""
_OUTCOMES: Final = """
CREATE TEMP TABLE outcomes (position INTEGER PRIMARY KEY, clip_id TEXT, reason TEXT, cells TEXT);
CREATE TEMP TABLE places (clip_id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID;
"""
_COMMIT_EVERY: Final = 50  # findings: what a kill may cost


class Journal:
    """The findings and outcomes in `path`, or only in memory. A broken file is begun afresh."""

    def __init__(self, path: Path | None) -> None:
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            if path is None or isinstance(error, sqlite3.OperationalError):
                raise
            _log.warning("%s: is no journal (%s); every clip is opened again", path, error)
            path.unlink()
            self._db = _open(path)
        self._uncommitted = 0

    def known(self, source: Source) -> Finding | None:
        """An earlier run's finding, if neither the file nor our decoding has changed."""
        with suppress(OSError):
            row = self._db.execute(
                "SELECT found FROM findings WHERE path = ? AND stamp = ?",
                (_key(source), _stamp(file_of(source))),
            ).fetchone()
            return Finding(**json.loads(row[0])) if row else None
        return None

    def remember(self, source: Source, found: Finding) -> None:
        """Keep what is in a file. What is unreadable may be readable tomorrow and is not kept."""
        with suppress(OSError):
            self._db.execute(
                "INSERT OR REPLACE INTO findings VALUES (?, ?, ?)",
                (_key(source), _stamp(file_of(source)), json.dumps(asdict(found))),
            )
        self._uncommitted += 1
        if self._uncommitted >= _COMMIT_EVERY:
            self._db.commit()
            self._uncommitted = 0

    def earlier_place(self, clip_id: str, place: str) -> str | None:
        """Where the clip has stood before, or None and from now on it stands at `place`."""
        key = clip_id.encode("utf-8", "backslashreplace").decode()
        if self._db.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (key, place)).rowcount:
            return None
        (first,) = self._db.execute("SELECT place FROM places WHERE clip_id = ?", (key,)).fetchone()
        return str(first)

    def put(self, position: int, outcome: Clip | Reject) -> None:
        """Keep what became of the row at `position` of the lists."""
        clip_id, reason = (
            (outcome.clip_id, None) if isinstance(outcome, Clip) else (None, outcome.reason)
        )
        self._db.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?)",
            (position, clip_id, reason, json.dumps(asdict(outcome))),
        )

    def clips(self, order: str = "clip_id") -> Iterator[Clip]:
        """The clips by `clip_id`, or by `position`."""
        assert order in ("clip_id", "position")
        query = f"SELECT cells FROM outcomes WHERE reason IS NULL ORDER BY {order}"
        for (cells,) in self._db.execute(query):
            values = json.loads(cells)
            soft = values.pop("soft_label")
            yield Clip(**values, soft_label=soft and tuple((name, share) for name, share in soft))

    def rejects(self) -> Iterator[Reject]:
        """The rejects in the lists' order."""
        query = "SELECT cells FROM outcomes WHERE reason IS NOT NULL ORDER BY position"
        for (cells,) in self._db.execute(query):
            yield Reject(**json.loads(cells))

    def counts(self) -> dict[str | None, int]:
        """How many rows were rejected for each reason; None: how many became clips."""
        query = "SELECT reason, count(*) FROM outcomes GROUP BY reason ORDER BY reason"
        return dict(self._db.execute(query).fetchall())

    def first_reject(self, reason: str) -> Reject:
        """The first row that was rejected for `reason`."""
        query = "SELECT cells FROM outcomes WHERE reason = ? ORDER BY position LIMIT 1"
        return Reject(**json.loads(self._db.execute(query, (reason,)).fetchone()[0]))

    def has_soft_labels(self) -> bool:
        """Whether any clip's votes are known."""
        query = """SELECT 1 FROM outcomes WHERE reason IS NULL
                   AND json_extract(cells, '$.soft_label') IS NOT NULL LIMIT 1"""
        return self._db.execute(query).fetchone() is not None

    def has_segments(self) -> bool:
        """Whether any clip is a segment of its file."""
        query = """SELECT 1 FROM outcomes WHERE reason IS NULL
                   AND json_extract(cells, '$.start') IS NOT NULL LIMIT 1"""
        return self._db.execute(query).fetchone() is not None

    def sound_counts(self) -> dict[str, int]:
        """How many clips have sound that is not all that it should be, by what is the matter."""
        query = """SELECT coalesce(sum(json_extract(cells, '$.digital_silence')), 0),
                          coalesce(sum(json_extract(cells, '$.lost_packets') > 0), 0)
                   FROM outcomes WHERE reason IS NULL"""
        silent, lossy = self._db.execute(query).fetchone()
        return {
            "whose sound is digital silence": silent,
            "with packets of sound that could not be decoded: silence stands in their place": lossy,
        }

    def close(self) -> None:
        """Put everything on disk."""
        self._db.commit()
        self._db.close()


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path or ":memory:", timeout=60.0)
    try:
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")
        database.executescript(_FINDINGS + _OUTCOMES)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _key(source: Source) -> str:
    part = f"#{source.start}-{source.end}" if isinstance(source, Segment) else ""
    return f"{file_of(source).absolute()}{part}".encode("utf-8", "backslashreplace").decode()


def _stamp(path: Path) -> str:
    """What changes when a file's bytes do, or what we read from them."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {_code()}"


@cache
def _code() -> str:
    digest = hashlib.sha256(media.code_hash().encode())
    for module in (content, prints, probing):
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()[:16]
