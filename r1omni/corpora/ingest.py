"""Stage `ingest`: a corpus's root -> its manifest and its rejects."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r1omni.config import IngestParams
from r1omni.corpora import conversations, dfew, emer, mafw, ravdess
from r1omni.corpora.clip import Clip, Reject, write_manifest, write_rejects
from r1omni.corpora.lists import CorpusError, Listed, reject
from r1omni.corpora.paths import EscapesRoot, find_clip
from r1omni.corpora.probing import Finding, Unreadable, probe_clips

_log = logging.getLogger(__name__)

ADAPTERS: Final[dict[str, Callable[[Path, int], Iterator[Listed | Reject]]]] = {
    "dfew": dfew.read_rows,
    "mafw": mafw.read_rows,
    "ravdess": ravdess.read_rows,
    "conversations": conversations.read_rows,
    "emer": emer.read_rows,
}


def run_ingest(
    root: Path, manifest: Path, rejects: Path, *, corpus: str, fold: int, ingest: IngestParams
) -> None:
    """Write the manifest and the rejects of the corpus at `root`; log a line per reason."""
    clips, rejected = read_corpus(
        corpus,
        root,
        fold,
        workers=ingest.workers,
        timeout_seconds=ingest.timeout_seconds,
        missing_audio=ingest.missing_audio,
    )
    write_rejects(rejected, rejects)
    write_manifest(clips, manifest)
    rows = len(clips) + len(rejected)
    _log.info("%s: %d rows, %d clips, %d rejected", root, rows, len(clips), len(rejected))
    for reason, count in sorted(Counter(r.reason for r in rejected).items()):
        first = next(r for r in rejected if r.reason == reason)
        _log.warning(
            "%s: %d rejected as %s; the first at %s: %s",
            root, count, reason, first.where, first.detail,
        )  # fmt: skip


def read_corpus(
    corpus: str,
    root: Path,
    fold: int,
    *,
    workers: int,
    timeout_seconds: float,
    missing_audio: Literal["reject", "silence"],
) -> tuple[list[Clip], list[Reject]]:
    """The clips and rejects of a corpus; see `r1omni.corpora.read_clips`."""
    if corpus not in ADAPTERS:
        raise CorpusError(f"unknown corpus {corpus!r}; known: {', '.join(ADAPTERS)}")
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder; expected the root of {corpus}")
    if not 1 <= fold <= 5:
        raise CorpusError(f"fold {fold} of {corpus}; expected 1 to 5")
    rows = list(_locate(corpus, root, ADAPTERS[corpus](root, fold)))
    paths = [root / path for row, path in rows if isinstance(row, Listed)]
    with _progress(corpus, len(paths)) as advance:
        found = iter(
            probe_clips(paths, workers=workers, timeout_seconds=timeout_seconds, advance=advance)
        )
    clips: list[Clip] = []
    rejects: list[Reject] = []
    for row, path in rows:
        outcome = (
            row
            if isinstance(row, Reject)
            else _judge(corpus, row, path, next(found), missing_audio)
        )
        if isinstance(outcome, Clip):
            clips.append(outcome)
        else:
            rejects.append(outcome)
    return clips, rejects


def _locate(
    corpus: str, root: Path, rows: Iterable[Listed | Reject]
) -> Iterator[tuple[Listed | Reject, str]]:
    """Every row with its file, or as a reject: nothing there, elsewhere, or seen before."""
    first: dict[str, str] = {}
    for row in rows:
        if isinstance(row, Reject):
            yield row, ""
            continue
        named = row.candidates[0]
        try:
            path = find_clip(root, row.candidates)
        except EscapesRoot as error:
            yield reject(corpus, row.where, "escapes_root", str(error), named), ""
            continue
        if row.clip_id in first:
            detail = f"{row.clip_id} stands at {first[row.clip_id]} already"
            yield reject(corpus, row.where, "duplicate", detail, path or named), ""
        elif path is None:
            detail = f"looked for {', '.join(row.candidates[:6])}"
            yield reject(corpus, row.where, "missing_file", detail, named), ""
        else:
            yield row, path
        first.setdefault(row.clip_id, row.where)


def _judge(
    corpus: str, row: Listed, path: str, found: Finding | Unreadable, missing_audio: str
) -> Clip | Reject:
    if isinstance(found, Unreadable):
        return reject(corpus, row.where, "unreadable", found.detail, path)
    if not found.has_audio and missing_audio == "reject":
        detail = "no audio track; ingest.missing_audio: silence would keep the clip"
        return reject(corpus, row.where, "no_audio", detail, path)
    return Clip(
        clip_id=row.clip_id,
        corpus=corpus,
        path=path,
        label=row.label,
        split=row.split,
        fold=row.fold,
        subject=row.subject,
        rationale=row.rationale,
        **asdict(found),
    )


@contextmanager
def _progress(corpus: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal's standard error; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"reading {corpus}", total=total)
        yield lambda: progress.advance(task)
