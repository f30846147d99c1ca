"""The frozen towers' outputs, once per clip: what every later stage reads instead of the clips.

Features are named by what they depend on: the file's content, the towers, the media settings and
the code that applies them. Finished shards are kept in `.state/features/`, outside DVC's outputs:
a killed run goes on from there to the same bytes, and a rerun computes only the clips that are
new. What is handed out are hard links to them, so the bytes lie on disk once; shards that the
last complete run did not hand out are dropped.

Where RANK and WORLD_SIZE say that several processes run (on as many GPUs as there are), each makes
its own share of the shards, and the first hands them out once all are there.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    free_bytes: FreeBytes = free_on_disk,
) -> None:
    """Write the features of every clip of `manifest` to the folder `out` (see feature_store).

    `allow` names surplus tensors of the checkpoint that are left out.
    A clip that does not decode within `limits` stands in the folder's table of rejects, with its
    reason. Raises ValueError naming manifest and file for a clip that is gone or leads out of
    `root`, where more than a tenth of the clips do not decode, and before the disk is full:
    `free_bytes` returns how much a folder's disk can take.
    """
    clips = sorted(read_manifest(manifest), key=lambda clip: clip.clip_id)
    backbone = load_backbone(checkpoint, allow)
    backbone.module.to(own_device(device))
    preparation = backbone.preparation
    towers = backbone.tower_fingerprint()
    keys = [_key(clip, towers, preparation) for clip in clips]
    paths = {key: _path(manifest, root, c) for key, c in zip(keys, clips, strict=True)}
    clip_bytes = backbone.clip_bytes()
    groups = list(_groups(paths, max(1, min(SHARD_CLIPS, SHARD_BYTES // clip_bytes))))
    kept = KeptShards(STATE / out.name)
    disk = Disk(out, free_bytes, min_free_gb, clip_bytes)
    disk.announce(groups, kept)
    _announce_cuts(out.name, clips, preparation)

    todo = [group for group in groups[rank() :: world_size()] if not kept.holds(group)]
    missing = [key for group in todo for key in group if key not in kept]
    workers = workers or max(1, usable_cores() // world_size())
    _refuse_missing(manifest, [media.file_of(paths[key]) for key in missing])
    decoded = decode_clips([paths[key] for key in missing], preparation, workers, limits)
    with _spare_threads(workers), features_bar(out.name, len(missing)) as advance:
        for group in todo:
            new = [key for key in group if key not in kept]
            disk.check(len(group))
            reasons: dict[str, str] = {}
            done: dict[str, Features] = {}
            for batch in _groups(_decoded(new, decoded, reasons), batch_size):
                encoded = backbone.encode([inputs for _, inputs in batch])
                done |= zip((key for key, _ in batch), encoded, strict=True)
                advance(len(batch))
            advance(len(reasons))
            if readable := [key for key in group if key not in reasons]:
                kept.add(readable, done)
            if reasons:
                kept.reject(group, reasons)

    if rank() == 0:
        kept.wait_for(groups)
        reasons = {key: why for group in groups for key, why in kept.rejected(group).items()}
        rejects = _rejects(manifest, clips, keys, reasons, kept)
        left = [[key for key in group if key not in reasons] for group in groups]
        _link_out(clips, keys, [group for group in left if group], kept, out, towers, rejects)


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


def _refuse_missing(manifest: Path, paths: Sequence[Path]) -> None:
    if gone := [path for path in paths if not path.is_file()]:
        raise ValueError(
            f"{manifest}: lists {len(gone)} clips that are gone, the first {gone[0]}; restore the "
            "files, or ingest the corpus again"
        )


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
