"""Which corpora a stage reads: one JSON file per role, with checksums of what it leads to.

A stage depends on the file of its role. So it runs again where a corpus of that role changes, and
not where another one does.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Member:
    """A corpus in a set. `labels`: its closed set, () where any known emotion may stand.

    `features` is None before there are any. `checksum`: of the manifest and the features' tables,
    which hold the checksums of all else.
    """

    corpus: str
    manifest: Path
    features: Path | None
    labels: tuple[str, ...]
    checksum: str


def write_set(path: Path, found: Iterable[Member]) -> None:
    """Write the set atomically, its members in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps([asdict(m) for m in found], indent=1, default=str) + "\n")
    partial.replace(path)


def read_set(path: Path) -> list[Member]:
    """The members of a set. Raises ValueError naming the file where it is none."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [_member(entry) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected a set of corpora, as `r1omni sets` writes it: {error!r}"
        ) from error


def manifests_of(found: Sequence[Member]) -> list[Path]:
    """The members' manifests."""
    return [member.manifest for member in found]


def features_of(found: Sequence[Member]) -> list[Path]:
    """The members' features. Raises ValueError for a member that has none yet."""
    folders = [member.features for member in found if member.features is not None]
    if len(folders) < len(found):
        raise ValueError(
            "a set without features, as `r1omni validate` writes it; run `r1omni sets`"
        )
    return folders


def _member(entry: dict[str, Any]) -> Member:
    features = entry["features"]
    return Member(
        corpus=str(entry["corpus"]),
        manifest=Path(entry["manifest"]),
        features=None if features is None else Path(features),
        labels=tuple(entry["labels"]),
        checksum=str(entry["checksum"]),
    )
