"""Stage `ingest`: a corpus's root -> its manifest and its rejects.

Rows go through one at a time and their outcomes wait in a journal, so that memory does not grow
with the corpus and a killed ingestion goes on where it was.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r1omni.config import IngestParams
from r1omni.corpora.clip import Clip, Reject, write_rejects, write_sorted_manifest
from r1omni.corpora.ingestion.journal import Journal
from r1omni.corpora.ingestion.lists import CorpusError, Listed, reject
from r1omni.corpora.ingestion.probing import Finding, Probe, Unreadable, probe_clips
from r1omni.corpora.origin import origin_of_root
from r1omni.corpora.paths import EscapesRoot, find_anywhere, find_clip, index_names
from r1omni.corpora.record import Corpus
from r1omni.limits import Limits
from r1omni.lineage import origin_record
from r1omni.media import Segment, Source
from r1omni.prompts import CONTROL

_log = logging.getLogger(__name__)

STATE: Final = Path(".state/ingest")
LONGEST_WORD: Final = 10  # characters: a text without spaces has this many in a word
_LOG_SECONDS: Final = 30.0  # between lines of progress where there is no terminal for a bar


def run_ingest(
    root: Path,
    manifest: Path,
    rejects: Path,
    *,
    corpus: Corpus,
    fold: int,
    ingest: IngestParams,
    limits: Limits,
    workers: int,
    elsewhere: Probe | None = None,
) -> None:
    """Write the manifest and the rejects of the corpus at `root`; log a line per reason.

    `elsewhere`: who opens the files; by default `workers` processes of this machine.
    What has been found out about each file is kept in `.state/ingest/`: a killed ingestion goes on
    from there, and so does the ingestion of another fold.
    """
    check_request(corpus, root, fold)
    note = origin_record(origin_of_root(root))
    journal = Journal(STATE / f"{manifest.stem}.sqlite")
    try:
        here = partial(probe_clips, workers=workers, limits=limits)
        _read_into(journal, corpus, root, fold, ingest, elsewhere or here)
        write_rejects(journal.rejects(), rejects)
        soft = journal.has_soft_labels()
        write_sorted_manifest(
            journal.clips(), manifest, soft=soft, cut=journal.has_segments(), note=note
        )
        counts = journal.counts()
        rows, clips = sum(counts.values()), counts.pop(None, 0)
        _log.info("%s: %d rows, %d clips, %d rejected", root, rows, clips, rows - clips)
        _log_sound(root, journal)
        for reason, count in counts.items():
            first = journal.first_reject(str(reason))
            _log.warning(
                "%s: %d rejected as %s; the first at %s: %s",
                root, count, reason, first.where, first.detail,
            )  # fmt: skip
    finally:
        journal.close()


def _log_sound(root: Path, journal: Journal) -> None:
    """What has to be known of the sound of the clips that were taken."""
    for what, count in journal.sound_counts().items():
        if count:
            _log.warning("%s: %d clips %s", root, count, what)


def read_corpus(
    corpus: Corpus,
    root: Path,
    fold: int,
    *,
    ingest: IngestParams,
    limits: Limits,
    workers: int,
) -> tuple[list[Clip], list[Reject]]:
    """The clips and rejects of a corpus; see `r1omni.corpora.read_clips`."""
    check_request(corpus, root, fold)
    journal = Journal(None)
    try:
        here = partial(probe_clips, workers=workers, limits=limits)
        _read_into(journal, corpus, root, fold, ingest, here)
        return list(journal.clips(order="position")), list(journal.rejects())
    finally:
        journal.close()


def check_request(corpus: Corpus, root: Path, fold: int) -> None:
    """Raise CorpusError for a root or a fold that there is not."""
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder; expected the root of {corpus.name}")
    check_fold(corpus, fold)


def check_fold(corpus: Corpus, fold: int) -> None:
    """Raise CorpusError for a fold that there is not."""
    if not 1 <= fold <= max(1, corpus.folds):
        there = f"1 to {corpus.folds}" if corpus.folds else "it has no folds"
        raise CorpusError(f"there is no fold {fold} of {corpus.name}: {there}")


def _read_into(
    journal: Journal,
    corpus: Corpus,
    root: Path,
    fold: int,
    ingest: IngestParams,
    probe: Probe,
) -> None:
    """Put every row of the corpus into the journal, as a clip or as a reject."""
    total = sum(1 for _ in corpus.read_rows(root, fold))
    waiting: dict[int, tuple[Listed, str]] = {}  # what the workers are at

    def unopened() -> Iterator[tuple[int, Source]]:
        """The files that have to be opened; what is known without is put into the journal."""
        rows = corpus.read_rows(root, fold)
        listed = (_checked(corpus.name, row, ingest.max_rationale_words) for row in rows)
        for position, (row, path) in enumerate(_locate(corpus, root, fold, listed, journal)):
            if isinstance(row, Reject):
                journal.put(position, row)
            elif known := journal.known(_source(root, row, path)):
                journal.put(position, _judge(corpus.name, row, path, known, ingest.missing_audio))
            else:
                waiting[position] = row, path
                yield position, _source(root, row, path)
                continue
            advance()

    with _progress(corpus.name, total) as advance:
        for position, found in probe(unopened()):
            row, path = waiting.pop(position)
            if isinstance(found, Finding):
                journal.remember(_source(root, row, path), found)
            journal.put(position, _judge(corpus.name, row, path, found, ingest.missing_audio))
            advance()


def _locate(
    corpus: Corpus, root: Path, fold: int, rows: Iterable[Listed | Reject], journal: Journal
) -> Iterator[tuple[Listed | Reject, str]]:
    """Every row with its file, or as a reject: nothing there, elsewhere, or seen before."""
    places: dict[str, list[str]] | None = None  # of files that no row names, once it is needed
    for row in rows:
        if isinstance(row, Reject):
            yield row, ""
            continue
        named = row.candidates[0]
        try:
            path = find_clip(root, row.candidates)
        except EscapesRoot as error:
            yield reject(corpus.name, row.where, "escapes_root", str(error), named), ""
            continue
        if path is None and row.anywhere:
            places = _unlisted_places(corpus, root, fold) if places is None else places
            found = find_anywhere(places, row.candidates)
            if len(found) > 1:
                detail = f"which of {', '.join(found[:6])} is meant is ambiguous"
                yield reject(corpus.name, row.where, "duplicate", detail, named), ""
                continue
            path = find_clip(root, found)
        earlier = journal.earlier_place(row.clip_id, row.where)
        if earlier is not None:
            detail = f"{row.clip_id} stands at {earlier} already"
            yield reject(corpus.name, row.where, "duplicate", detail, path or named), ""
        elif path is None:
            detail = f"looked for {', '.join(row.candidates[:6])}"
            yield reject(corpus.name, row.where, "missing_file", detail, named), ""
        elif not path.isprintable() and not _is_text(path):
            detail = "the name of the file or of a folder is no UTF-8"
            yield reject(corpus.name, row.where, "malformed_row", detail, path), ""
        else:
            yield row, path


def _unlisted_places(corpus: Corpus, root: Path, fold: int) -> dict[str, list[str]]:
    """File name -> places below the root, without the files that a row names by their place.

    Else a row whose own file is missing would take another row's file of the same name.
    """
    named: set[str] = set()
    for row in corpus.read_rows(root, fold):
        if isinstance(row, Listed):
            with suppress(EscapesRoot):
                named.add(find_clip(root, row.candidates) or "")
    return {
        name: left
        for name, found in index_names(root).items()
        if (left := [place for place in found if place not in named])
    }


def _checked(corpus: str, row: Listed | Reject, max_words: int) -> Listed | Reject:
    """The row, or a reject where its rationale is no text that a model may learn from."""
    if isinstance(row, Reject) or row.rationale is None:
        return row
    control = CONTROL.search(row.rationale)
    if control is not None:
        detail = f"the rationale holds {control[0]!r}, which steers a model and is no text"
        return reject(corpus, row.where, "malformed_row", detail, row.candidates[0])
    n_words = max(len(row.rationale.split()), len(row.rationale) // LONGEST_WORD)
    if n_words > max_words:
        detail = f"a rationale of {n_words} words; ingest.max_rationale_words is {max_words}"
        return reject(corpus, row.where, "malformed_row", detail, row.candidates[0])
    return row


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
        soft_label=row.soft_label,
        start=row.start,
        end=row.end,
        **asdict(found),
    )


def _source(root: Path, row: Listed, path: str) -> Source:
    if row.start is None or row.end is None:
        return root / path
    return Segment(root / path, row.start, row.end)


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _progress(corpus: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal's standard error; elsewhere a line in the log now and then."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    start = logged = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"reading {corpus}", total=total)

        def advance() -> None:
            nonlocal logged
            progress.advance(task)
            now = time.monotonic()
            if not console.is_terminal and now - logged >= _LOG_SECONDS:
                logged = now
                done = int(progress.tasks[task].completed)
                rate = done / (now - start)
                _log.info(
                    "reading %s: %d of %d rows, %.0f a second, about %.0f s left",
                    corpus, done, total, rate, (total - done) / rate,
                )  # fmt: skip

        yield advance
