"""The frozen towers' outputs, once per clip: what every later stage reads instead of the clips.

Features are named by what they depend on: the file's content, the towers, the media settings and
the code that applies them. Finished shards are kept in `.state/features/`, outside DVC's outputs:
a killed run goes on from there to the same bytes, and a rerun computes only the clips that are
new. What is handed out are hard links to them, so the bytes lie on disk once; shards that the
last complete run did not hand out are dropped.

Where RANK and WORLD_SIZE say that several processes run (on as many GPUs as there are), each makes
its own share of the shards, and the first hands them out once all are there. Tasks of a Ray
cluster make one shard each instead.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import pandas as pd
import torch

from r1omni import media
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.paths import EscapesRoot, resolve_clip
from r1omni.limits import Limits
from r1omni.machine.device import Device, own_device
from r1omni.machine.environment import rank, world_size
from r1omni.media import COMPLETE, Preparation, TowerInputs
from r1omni.media.pool import Undecoded, decode_clips, usable_cores
from r1omni.model.feature_output import (
    STATE,
    Disk,
    FreeBytes,
    commit_features,
    features_bar,
    free_on_disk,
)
from r1omni.model.feature_rejects import FeatureReject
from r1omni.model.feature_store import COLUMNS, Features
from r1omni.model.kept_shards import KeptShards
from r1omni.model.loading import load_backbone

_log = logging.getLogger(__name__)

SHARD_CLIPS: Final = 256
SHARD_BYTES: Final = 2**28  # fewer clips to a shard where each is large: one is held in memory
Item = TypeVar("Item")


@dataclass(frozen=True)
class FeatureJob:
    """Whose features to compute, and how; see run_features."""

    manifest: Path
    root: Path
    checkpoint: Path
    out: Path
    batch_size: int
    workers: int
    limits: Limits
    device: Device
    allow: tuple[str, ...]
    shard_clips: int


Elsewhere = Callable[[FeatureJob, Sequence[int]], Iterable[int]]


class _Shards:
    """The shards of a job: which there are to be, which are kept, and how one is made."""

    def __init__(self, job: FeatureJob, *, read_kept: bool = True) -> None:
        self.job = job
        self.clips = sorted(read_manifest(job.manifest), key=lambda clip: clip.clip_id)
        self._backbone = load_backbone(job.checkpoint, job.allow)
        self._backbone.module.to(own_device(job.device))
        self.preparation = self._backbone.preparation
        self.towers = self._backbone.tower_fingerprint()
        self.keys = [_key(clip, self.towers, self.preparation) for clip in self.clips]
        clips = zip(self.keys, self.clips, strict=True)
        self._paths = {key: _path(job.manifest, job.root, clip) for key, clip in clips}
        self.clip_bytes = self._backbone.clip_bytes()
        size = max(1, min(job.shard_clips, SHARD_BYTES // self.clip_bytes))
        self.groups = list(_groups(self._paths, size))
        self.kept = KeptShards(STATE / job.out.name, read=read_kept)

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of the shards that are not kept."""
        return [number for number in numbers if not self.kept.holds(self.groups[number])]

    def clips_of(self, numbers: Iterable[int]) -> list[str]:
        """The keys in these shards whose features no kept shard has."""
        return [key for n in numbers for key in self.groups[n] if key not in self.kept]

    def refuse_missing(self, numbers: Iterable[int]) -> None:
        """Raise ValueError where files of these shards' clips are gone."""
        found = [media.file_of(self._paths[key]) for key in self.clips_of(numbers)]
        if gone := [path for path in found if not path.is_file()]:
            raise ValueError(
                f"{self.job.manifest}: lists {len(gone)} clips that are gone, the first "
                f"{gone[0]}; restore the files, or ingest the corpus again"
            )

    def make(self, numbers: Sequence[int], advance: Callable[[int], None], disk: Disk) -> None:
        """Make these shards; `advance` is told of each batch's number of clips."""
        workers = self.job.workers or max(1, usable_cores() // world_size())
        sources = [self._paths[key] for key in self.clips_of(numbers)]
        decoded = decode_clips(sources, self.preparation, workers, self.job.limits)
        with _spare_threads(workers):
            for group in (self.groups[number] for number in numbers):
                new = [key for key in group if key not in self.kept]
                disk.check(len(group))
                reasons: dict[str, str] = {}
                done: dict[str, Features] = {}
                for batch in _groups(_decoded(new, decoded, reasons), self.job.batch_size):
                    encoded = self._backbone.encode([inputs for _, inputs in batch])
                    done |= zip((key for key, _ in batch), encoded, strict=True)
                    advance(len(batch))
                advance(len(reasons))
                if readable := [key for key in group if key not in reasons]:
                    self.kept.add(readable, done)
                if reasons:
                    self.kept.reject(group, reasons)


def run_features(
    manifest: Path,
    root: Path,
    checkpoint: Path,
    out: Path,
    *,
    batch_size: int,
    workers: int,
    min_free_gb: float,
    limits: Limits,
    device: Device = "auto",
    allow: Sequence[str] = (),
    patience: float = math.inf,
    elsewhere: Elsewhere | None = None,
    free_bytes: FreeBytes = free_on_disk,
) -> None:
    """Write the features of every clip of `manifest` to the folder `out` (see feature_store).

    `allow` names surplus tensors of the checkpoint that are left out.
    A clip that does not decode within `limits` stands in the folder's table of rejects, with its
    reason. `elsewhere`: who makes the shards with these numbers, and returns each one's number of
    clips; by default this process. `patience`: seconds that rank 0 waits for another rank's next
    shard. Raises ValueError naming manifest and file for a clip that is gone or leads out of
    `root`, where more than a tenth of the clips do not decode, and before the disk is full:
    `free_bytes` returns how much a folder's disk can take; TimeoutError if a rank does not come.
    """
    job = FeatureJob(
        manifest, root, checkpoint, out, batch_size, workers, limits, device, tuple(allow),
        SHARD_CLIPS,
    )  # fmt: skip
    shards = _Shards(job)
    name, kept = job.out.name, shards.kept
    disk = Disk(job.out, free_bytes, min_free_gb, shards.clip_bytes)
    disk.announce(shards.groups, kept)
    _announce_cuts(name, shards.clips, shards.preparation)
    share = range(len(shards.groups))[rank() :: world_size()]
    todo = shards.missing(share)
    shards.refuse_missing(todo)
    with features_bar(name, len(shards.clips_of(todo))) as advance:
        if elsewhere is None:
            shards.make(todo, advance, disk)
        else:
            for n_clips in elsewhere(job, todo):
                advance(n_clips)
    if rank() == 0:
        kept.wait_for(shards.groups, patience)
        reasons = {k: why for group in shards.groups for k, why in kept.rejected(group).items()}
        rejects = _rejects(job.manifest, shards.clips, shards.keys, reasons, kept)
        left = [[key for key in group if key not in reasons] for group in shards.groups]
        groups = [group for group in left if group]
        _link_out(shards.clips, shards.keys, groups, kept, job.out, shards.towers, rejects)


def make_shard(number: int, *, job: FeatureJob, min_free_gb: float) -> int:
    """Make one shard of the job, in any process of any machine; returns its number of clips.

    The towers stay in memory for the process's next shard.
    """
    shards = _loaded(job)
    disk = Disk(job.out, free_on_disk, min_free_gb, shards.clip_bytes)
    n_clips = len(shards.clips_of([number]))
    shards.make([number], lambda _: None, disk)
    return n_clips


@lru_cache(maxsize=1)
def _loaded(job: FeatureJob) -> _Shards:
    return _Shards(job, read_kept=False)


def _link_out(
    clips: Sequence[Clip],
    keys: Sequence[str],
    groups: Sequence[Sequence[str]],
    kept: KeptShards,
    out: Path,
    towers: str,
    rejects: Sequence[FeatureReject],
) -> None:
    """Put shards, index and rejects of the clips at `out`, and drop all other shards."""
    shards = {kept.path(group): group for group in groups}
    places = {key: (path.name, i) for path, group in shards.items() for i, key in enumerate(group)}
    checksums = {path.name: kept.checksum(group) for path, group in shards.items()}
    rows = [
        (clip.clip_id, key, *places[key], clip.has_audio, towers, checksums[places[key][0]])
        for clip, key in zip(clips, keys, strict=True)
        if key in places
    ]
    commit_features(pd.DataFrame(rows, columns=list(COLUMNS)), list(shards), rejects, out)
    kept.drop_all_but(shards)


def _decoded(
    keys: Sequence[str], outcomes: Iterator[TowerInputs | Undecoded], reasons: dict[str, str]
) -> Iterator[tuple[str, TowerInputs]]:
    """The inputs of the clips that decode, by key; `reasons` receives why the others do not."""
    for key, outcome in zip(keys, islice(outcomes, len(keys)), strict=True):
        if isinstance(outcome, Undecoded):
            reasons[key] = outcome.reason
        else:
            yield key, outcome


def _rejects(
    manifest: Path,
    clips: Sequence[Clip],
    keys: Sequence[str],
    reasons: Mapping[str, str],
    kept: KeptShards,
) -> list[FeatureReject]:
    """The clips without features. Raises ValueError where they are more than a tenth."""
    rejects = [
        FeatureReject(clip.clip_id, clip.path, reasons[key])
        for clip, key in zip(clips, keys, strict=True)
        if key in reasons
    ]
    if not rejects:
        return []
    found = f"{len(rejects)} of {len(clips)} clips do not decode; the first, {rejects[0].path}: "
    found += rejects[0].reason
    if len(clips) - len(rejects) < COMPLETE * len(clips):
        kept.forget_rejects()
        raise ValueError(f"{manifest}: {found}; restore the files, or ingest the corpus again")
    _log.warning("%s: %s; they have no features and are left out", manifest, found)
    return rejects


def _announce_cuts(name: str, clips: Sequence[Clip], preparation: Preparation) -> None:
    n_cut = sum(preparation.cuts(clip.audio_duration) for clip in clips)
    if n_cut and rank() == 0:
        _log.warning(
            "features %s: %d of %d clips have more sound than the model hears: cut after %g s",
            name, n_cut, len(clips), preparation.audio_seconds,
        )  # fmt: skip


def _path(manifest: Path, root: Path, clip: Clip) -> media.Source:
    try:
        path = resolve_clip(root, clip.path)
    except EscapesRoot as error:
        raise ValueError(f"{manifest}: clip {clip.clip_id!r}: {error}") from error
    if clip.start is None or clip.end is None:
        return path
    return media.Segment(path, clip.start, clip.end)


def _key(clip: Clip, towers: str, preparation: Preparation) -> str:
    parts = [clip.sha256, towers, repr(preparation), media.code_hash()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


@contextmanager
def _spare_threads(workers: int) -> Iterator[None]:
    """The towers take the cores that the decoding processes leave, one at least."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, usable_cores() // world_size() - workers))
    yield
    torch.set_num_threads(before)
