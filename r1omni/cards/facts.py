"""What the pipeline has on disk about a checkpoint and about a corpus."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from r1omni.config import CorpusParams
from r1omni.corpora.clip import Clip, read_manifest, read_rejects
from r1omni.corpora.known import listed_corpus
from r1omni.corpora.origin import read_origin
from r1omni.corpora.record import Corpus
from r1omni.hub import RECORD
from r1omni.lineage import PROVENANCE, Lineage, Origin, read_lineage, read_provenance
from r1omni.tracking.provenance import file_hash, file_hashes, joint_hash


@dataclass(frozen=True)
class Checkpoint:
    """A stage's checkpoint: its folder, its provenance.json and its config.json."""

    folder: Path
    lineage: Lineage
    record: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's name in metrics.json."""
        return self.folder.name

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Relative path -> SHA-256; read once, when first asked for."""
        return file_hashes(self.folder)

    @property
    def content_hash(self) -> str:
        """The hash by which the registry knows it."""
        return joint_hash(self.files)


@dataclass(frozen=True)
class Step:
    """One training of a model's ancestry; what its provenance.json lacks is None.

    `trained_on`: corpus -> training clips. `checkpoint`: None if it is not here.
    """

    stage: str
    mode: str | None
    fold: int | None
    seed: int | None
    code: str | None
    params_hash: str | None
    params: Mapping[str, Any]
    trained_on: Mapping[str, int]
    checkpoint: Checkpoint | None

    @property
    def content_hash(self) -> str | None:
        """Its checkpoint's; None if that is not here."""
        return None if self.checkpoint is None else self.checkpoint.content_hash


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus of params' `corpora`: its record, origin, manifest and rejects by reason."""

    key: str
    record: Corpus
    roles: tuple[str, ...]
    origin: Origin
    manifest: Path
    sha256: str
    clips: tuple[Clip, ...]
    rejects: Mapping[str, int]

    @property
    def name(self) -> str:
        """The name in the manifest's column `corpus`, by which predictions and metrics know it."""
        return self.clips[0].corpus if self.clips else self.record.name

    @property
    def title(self) -> str:
        """ "DFEW (synthetic)"."""
        kind = "origin unknown" if self.origin.data == "unknown" else self.origin.data
        return f"{self.record.title} ({kind})"

    def split(self, split: str) -> list[Clip]:
        """The clips of "train" or "test"."""
        return [clip for clip in self.clips if clip.split == split]


def read_checkpoint_facts(folder: Path) -> Checkpoint:
    """The checkpoint of a stage. Raises ValueError, naming the file, for any other folder."""
    record, lineage = read_provenance(folder), read_lineage(folder)
    if record is None or lineage is None:
        raise ValueError(f"{folder}: has no {PROVENANCE}; expected the checkpoint of a stage")
    return Checkpoint(folder, lineage, record, _read_json(folder / "config.json"))


def ancestry(checkpoint: Checkpoint, others: Iterable[Checkpoint] = ()) -> tuple[Step, ...]:
    """The trainings that made the checkpoint, the last first, by its provenance.json.

    A parent is the checkpoint among `others` with the parent's record.
    """
    steps = []
    record: Mapping[str, Any] | None = checkpoint.record
    known = [checkpoint, *others]
    while record:
        steps.append(
            Step(
                stage=str(record.get("stage")),
                mode=record.get("mode"),
                fold=record.get("fold"),
                seed=record.get("seed"),
                code=record.get("code"),
                params_hash=record.get("params_hash"),
                params=record.get("params") or {},
                trained_on=record.get("trained_on") or {},
                checkpoint=next((other for other in known if other.record == record), None),
            )
        )
        record = record.get("parent")
    return tuple(steps)


def released_parents(steps: Sequence[Step]) -> list[Mapping[str, str]]:
    """The repositories, with revision and commit, that the first step's checkpoint came from.

    Empty where nothing was fetched: the base was trained here, or its files were brought by hand.
    """
    source = steps[-1].params.get("source") if steps else None
    path = Path(str(source)) / RECORD
    if source is None or not path.is_file():
        return []
    record = _read_json(path)
    towers = record.pop("towers", {})
    return [record, *towers.values()]


def read_corpora(
    manifests: Path, rejects: Path, corpora: Mapping[str, CorpusParams]
) -> list[CorpusFacts]:
    """The facts of every entry of params. Raises ValueError, naming a file that is missing."""
    return [
        CorpusFacts(
            key=key,
            record=listed_corpus(key, entry),
            roles=entry.roles,
            origin=read_origin(manifests / f"{key}.parquet"),
            manifest=manifests / f"{key}.parquet",
            sha256=file_hash(manifests / f"{key}.parquet"),
            clips=tuple(read_manifest(manifests / f"{key}.parquet")),
            rejects=dict(
                sorted(Counter(r.reason for r in read_rejects(rejects / f"{key}.parquet")).items())
            ),
        )
        for key, entry in corpora.items()
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {found!r}")
    return found
