"""`r1omni doctor`: what is there of a corpus, what is missing, and what there should be.

Reads every list, checks for every clip and opens a handful of them: seconds on a whole corpus.
Nothing is written.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Reject
from r1omni.corpora.ingestion.ingest import check_request
from r1omni.corpora.ingestion.lists import CorpusError, Listed
from r1omni.corpora.ingestion.probing import Unreadable, probe_clips
from r1omni.corpora.known import find_corpus
from r1omni.corpora.paths import EscapesRoot, find_clip
from r1omni.corpora.record import Check, Corpus, State
from r1omni.limits import Limits

_OPENED: Final = 6  # clips, spread over the corpus
_LIMITS: Final = Limits(timeout_seconds=10.0, max_pixels=2**31 - 1, memory_mb=1024)
_EXAMPLES: Final = 3
_USUAL: Final = {"wrong_modality", "no_single_label"}  # rejects that whole copies have too


@dataclass
class _Lists:
    """What the lists of one fold hold. Clips are known by clip_id; `rejects` are counted."""

    fold: int
    clips: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "test": set()})
    rows: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    first: dict[str, Reject] = field(default_factory=dict)
    subjects: set[str] = field(default_factory=set)


def examine(corpus: str, root: Path) -> list[Check]:
    """What was found at `root`, each thing a check. Raises CorpusError for an unknown corpus."""
    record = find_corpus(corpus)
    try:
        check_request(record, root, 1)
    except CorpusError as error:
        return [Check("missing", str(error)), *_advice(record)]
    return list(_examine(record, root))


def is_whole(checks: Sequence[Check]) -> bool:
    """Whether nothing is missing."""
    return all(check.state != "missing" for check in checks)


def _examine(corpus: Corpus, root: Path) -> Iterator[Check]:
    yield Check("note", f"{corpus.about}; looking at {root}")
    places: dict[str, Path | str] = {}  # each clip's file, or why it has none
    folds: list[_Lists] = []
    for fold in range(1, max(1, corpus.folds) + 1):
        try:
            lists = _read(corpus, root, fold, places)
        except CorpusError as error:
            yield Check("missing", f"lists of fold {fold}: {error}" if fold > 1 else str(error))
            continue
        folds.append(lists)
        yield from _check_rows(lists, corpus)
    if len(folds) > 1:
        yield from _check_folds(folds, corpus.folds)
    if corpus.examine is not None:
        yield corpus.examine(root)
    if places:
        yield from _check_files(root, places, corpus)
        yield _check_sample(list(places.values()), root)
    if folds and not folds[0].labels:
        yield Check("missing", "no usable row: nothing could be ingested")
    yield from _advice(corpus)


def _read(corpus: Corpus, root: Path, fold: int, places: dict[str, Path | str]) -> _Lists:
    lists = _Lists(fold)
    for row in corpus.read_rows(root, fold):
        if isinstance(row, Reject):
            lists.rejects[row.reason] += 1
            lists.first.setdefault(row.reason, row)
            continue
        lists.rows[row.split] += 1
        if row.clip_id not in places:
            places[row.clip_id] = _place(root, row)
        lists.clips[row.split].add(row.clip_id)
        if row.subject is not None:
            lists.subjects.add(row.subject)
        if fold == 1 and (row.split == "test" or "test" not in corpus.splits):
            lists.labels[row.label or "none"] += 1
    return lists


def _place(root: Path, row: Listed) -> Path | str:
    try:
        found = find_clip(root, row.candidates)
    except EscapesRoot as error:
        return str(error)
    return root / found if found else f"{row.where} names {row.candidates[0]}"


def _check_rows(lists: _Lists, documented: Corpus) -> Iterator[Check]:
    train, test = lists.rows["train"], lists.rows["test"]
    rejected = sum(lists.rejects.values())
    if documented.folds_rows:
        right = documented.folds_rows[lists.fold - 1]
        state: State = "ok" if (train, test) == right else "missing"
        counted = f"fold {lists.fold}: {train:,} train and {test:,} test rows"
        yield Check(state, f"{counted}; documented: {right[0]:,} and {right[1]:,}")
    elif documented.folds:
        yield Check("ok", f"fold {lists.fold}: {train:,} train and {test:,} test rows")
    else:
        rows = train + test + rejected
        known = " or ".join(f"{n:,}" for n in documented.rows)
        otherwise: State = "missing" if documented.usable is None else "note"
        state = "ok" if rows in documented.rows or not known else otherwise
        yield Check(state, f"{rows:,} rows" + (f"; documented: {known}" if known else ""))
    if documented.usable is not None:
        state = "ok" if test == documented.usable else "missing"
        yield Check(state, f"{test:,} of them evaluated; documented: {documented.usable:,}")
    if documented.subjects is not None:
        state = "ok" if len(lists.subjects) == documented.subjects else "missing"
        yield Check(state, f"{len(lists.subjects)} actors; documented: {documented.subjects}")
    for reason, count in lists.rejects.items():
        first = lists.first[reason]
        state = "note" if reason in _USUAL else "missing"
        yield Check(state, f"{count:,} rows rejected as {reason}; {first.where}: {first.detail}")
    if lists.fold == 1 and lists.labels:
        yield _check_labels(lists.labels, documented)


def _check_labels(labels: Counter[str], documented: Corpus) -> Check:
    counted = ", ".join(f"{label} {n:,}" for label, n in labels.most_common(12))
    if documented.label_counts and dict(labels) != dict(documented.label_counts):
        right = ", ".join(f"{label} {n:,}" for label, n in documented.label_counts.items())
        return Check("missing", f"labels of the test clips: {counted}; documented: {right}")
    return Check("ok", f"labels of the test clips: {counted}")


def _check_folds(folds: Sequence[_Lists], n_folds: int) -> Iterator[Check]:
    """Every test clip of a fold must be a train clip of every other, and in no two lists here."""
    for lists in folds:
        train, test = lists.clips["train"], lists.clips["test"]
        twice = lists.rows.total() - len(train | test)
        if twice:
            yield Check("missing", f"fold {lists.fold}: {twice:,} rows name a clip a second time")
        for other in folds:
            strangers = test - other.clips["train"]
            if other.fold != lists.fold and strangers:
                yield Check("missing", f"{len(strangers):,} test clips of fold {lists.fold} do not "
                            f"train fold {other.fold}: {_some(strangers)}")  # fmt: skip
    if len(folds) == n_folds:
        everyone = set().union(*(lists.clips["test"] for lists in folds))
        yield Check("ok", f"{len(everyone):,} clips stand in the {n_folds} test lists together")


def _check_files(root: Path, places: dict[str, Path | str], documented: Corpus) -> Iterator[Check]:
    missing = [why for why in places.values() if isinstance(why, str)]
    found = len(places) - len(missing)
    state: State = "missing" if missing else "ok"
    examples = f"; {'; '.join(missing[:_EXAMPLES])}" if missing else ""
    yield Check(state, f"{found:,} of {len(places):,} listed clips have their file{examples}")
    folders = Counter(place.parent for place in places.values() if isinstance(place, Path))
    if documented.files is not None and folders:
        (folder, _), *_ = folders.most_common(1)
        files = sum(1 for p in folder.iterdir() if p.suffix.lower() in (".mp4", ".avi"))
        whole = files == documented.files
        where = folder.relative_to(root).as_posix()
        yield Check("ok" if whole else "note",
                    f"{files:,} files in {where}; documented: {documented.files:,}")  # fmt: skip


def _check_sample(places: list[Path | str], root: Path) -> Check:
    """Open a few clips, spread over the corpus."""
    paths = [place for place in places if isinstance(place, Path)]
    chosen = paths[:: max(1, len(paths) // _OPENED)][:_OPENED]
    silent, broken = 0, []
    for index, found in probe_clips(enumerate(chosen), workers=min(2, len(chosen)), limits=_LIMITS):
        if isinstance(found, Unreadable):
            broken.append(f"{chosen[index].relative_to(root)}: {found.detail}")
        else:
            silent += not found.has_audio
    opened = f"{len(chosen)} clips opened, {len(broken)} unreadable, {silent} without sound"
    return Check("missing" if broken else "ok", "; ".join([opened, *broken[:_EXAMPLES]]))


def _advice(corpus: Corpus) -> Iterator[Check]:
    yield Check("note", f"expected layout: {corpus.layout}")
    if corpus.ask:
        yield Check("note", f"to be asked for at {corpus.ask}")


def _some(clip_ids: set[str]) -> str:
    return ", ".join(sorted(clip_ids)[:_EXAMPLES])
