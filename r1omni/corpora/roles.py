"""What the corpora of params are used for: who has which role, and what is wrong with that."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

from r1omni.config import CorpusParams
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.known import known_names, listed_corpus
from r1omni.corpora.record import Corpus, Role, label_set
from r1omni.corpora.sets import Member, write_set
from r1omni.corpora.table import TABLE
from r1omni.emotions import EMOTIONS

ROLES: Final[tuple[Role, ...]] = get_args(Role)

Corpora = Mapping[str, CorpusParams]
Problem = tuple[list[str], str]  # a key of params, part by part, and what is wrong there


def with_role(corpora: Corpora, role: Role) -> list[str]:
    """The listed corpora with this role, in their order."""
    return [key for key, entry in corpora.items() if role in entry.roles]


def run_sets(out: Path, manifests: Path, features: Path, *, corpora: Corpora) -> None:
    """Write OUT/cold_start.json, OUT/train.json and OUT/test.json, a set for each role.

    Raises ValueError where a manifest is not there.
    """
    for role in ROLES:
        write_set(out / f"{role}.json", members(role, corpora, manifests, features))


def members(role: Role, corpora: Corpora, manifests: Path, features: Path | None) -> list[Member]:
    """The corpora with this role in the order of params, each with its files in these folders."""
    found = []
    for key in with_role(corpora, role):
        manifest = manifests / f"{key}.parquet"
        folder = None if features is None else features / key
        corpus = listed_corpus(key, corpora[key])
        labels = label_set(corpus, read_manifest(manifest)) or ()
        files = [manifest] if folder is None else [manifest, *sorted(folder.glob("*.parquet"))]
        found.append(Member(corpus.name, manifest, folder, labels, _checksum(files)))
    return found


def problems(corpora: Corpora) -> Iterator[Problem]:
    """What is wrong with the entries of `corpora`, before anything runs.

    What a table holds is not looked at here: `check_table` does that.
    """
    for key, entry in corpora.items():
        try:
            corpus = listed_corpus(key, entry)
        except CorpusError as error:
            yield ["corpora", key, "adapter"], str(error)
        else:
            for name, message in _entry_problems(key, entry, corpus):
                yield ["corpora", key, name], message
    for role in ROLES:
        if not with_role(corpora, role):
            yield ["corpora"], f"no corpus has the role {role}: list it under `roles` of one"
    folds = {key: entry.fold for key, entry in corpora.items() if entry.fold is not None}
    if len(set(folds.values())) > 1:
        yield ["corpora"], f"one fold for all, as a test clip of one trains the others: {folds}"


def _entry_problems(key: str, entry: CorpusParams, corpus: Corpus) -> Iterator[tuple[str, str]]:
    if re.fullmatch(r"\w[\w-]*", key) is None:
        yield "adapter", f"{key!r} names files: letters, digits, _ and - only"
    if entry.adapter == TABLE and key in known_names():
        yield "adapter", f"{key} has a module of its own: give the table another name"
    if entry.adapter != TABLE and entry.labels is not None:
        yield "labels", f"only a {TABLE} takes labels; {corpus.title} has its own"
    for label in entry.labels or ():
        if label not in EMOTIONS:
            yield "labels", f"unknown label {label!r}; known: {', '.join(EMOTIONS)}"
    if corpus.folds and entry.fold is None:
        yield "fold", f"is missing: {corpus.title} has the folds 1 to {corpus.folds}"
    elif not corpus.folds and entry.fold is not None:
        yield "fold", f"{corpus.title} has no folds: leave it out"
    elif entry.fold is not None and entry.fold > corpus.folds:
        yield "fold", f"there is no fold {entry.fold} of {corpus.title}: 1 to {corpus.folds}"
    for role in entry.roles:
        if (why := corpus.refusal(role)) is not None:
            yield "roles", f"{role}: {why}"


def _checksum(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
