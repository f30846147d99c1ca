"""The frozen towers' outputs, once per clip: what every later stage reads instead of the clips.

Features are named by what they depend on: the file's content, the towers, the media settings and
the code that applies them. Finished shards are kept in `.state/features/`, outside DVC's outputs:
a killed run goes on from there to the same bytes, and a rerun computes only the clips that are
new. What is handed out are hard links to them, so the bytes lie on disk once; shards that the
last complete run did not hand out are dropped.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import pandas as pd
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from r1omni import media
from r1omni.config import FeaturesParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.decoding import decode_clips, usable_cores
from r1omni.media import MediaSettings, TowerInputs, UnreadableMedia
from r1omni.model import modelling
from r1omni.model.feature_store import (
    COLUMNS,
    INDEX,
    FeatureBatch,
    FeatureStore,
    Shard,
    read_shard,
    write_shard,
)
from r1omni.model.modelling import HumanOmniForConditionalGeneration
from r1omni.model.processor import HumanOmniProcessor
from r1omni.model.tower_inputs import stack_inputs

__all__ = ["FeatureBatch", "FeatureStore", "run_features", "tower_fingerprint"]

STATE: Final = Path(".state/features")
SHARD_CLIPS: Final = 256
SHARD_BYTES: Final = 2**28  # fewer clips to a shard where each is large: one is held in memory
Item = TypeVar("Item")


def run_features(
    manifest: Path, root: Path, checkpoint: Path, out: Path, *, features: FeaturesParams
) -> None:
    """Write the features of every clip of `manifest` to the folder `out` (see feature_store).

    Raises ValueError naming manifest and file for a clip that no longer decodes.
    """
    clips = sorted(read_manifest(manifest), key=lambda clip: clip.clip_id)
    model = HumanOmniForConditionalGeneration.from_pretrained(checkpoint).eval()
    settings = HumanOmniProcessor.from_pretrained(checkpoint).media
    towers = tower_fingerprint(model)
    keys = [_key(clip, towers, settings) for clip in clips]
    paths = {key: root / clip.path for key, clip in zip(keys, clips, strict=True)}
    kept = KeptShards(STATE / out.name)
    missing = [key for key in paths if key not in kept]
    clip_bytes = _clip_bytes(model)
    _announce(out, len(clips), len(missing), clip_bytes)

    shard_clips = max(1, min(SHARD_CLIPS, SHARD_BYTES // clip_bytes))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    decoded = decode_clips([paths[key] for key in missing], settings, features.workers)
    with _spare_threads(features.workers), _progress() as progress:
        task = progress.add_task(f"features {out.name}", total=len(missing))
        for shard_keys in _groups(missing, shard_clips):
            inputs = _explained(manifest, islice(decoded, len(shard_keys)))
            batches = []
            for batch in _groups(inputs, features.batch_size):
                batches.append(_encode(model, batch))
                progress.advance(task, len(batch))
            kept.add(_joined(shard_keys, batches))

    shards = {kept.provide(group): group for group in _groups(paths, shard_clips)}
    places = {key: (path.name, i) for path, group in shards.items() for i, key in enumerate(group)}
    rows = [
        (clip.clip_id, key, *places[key], clip.has_audio, towers)
        for clip, key in zip(clips, keys, strict=True)
    ]
    _commit(pd.DataFrame(rows, columns=list(COLUMNS)), list(shards), out)
    kept.drop_all_but(shards)


def tower_fingerprint(model: HumanOmniForConditionalGeneration) -> str:
    """What identifies the towers: a hash of their tensors and of what is read from them."""
    digest = hashlib.sha256()
    digest.update(f"{model.config.vision_select_layer} {model.config.audio_pool}".encode())
    for tower in (model.model.vision_tower, model.model.audio_tower):
        for name, tensor in sorted(tower.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class KeptShards:
    """The shards in `folder` that earlier runs finished, by the keys of their rows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._remember(path, read_shard(path).keys)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def add(self, shard: Shard) -> Path:
        """The file that now keeps the shard."""
        path = self._path(shard.keys)
        write_shard(shard, path)
        self._remember(path, shard.keys)
        return path

    def provide(self, keys: Sequence[str]) -> Path:
        """The shard of exactly these rows in this order, put together from others if need be."""
        path = self._path(keys)
        if path.is_file():
            return path
        sources = {source: read_shard(source) for source in {self._places[key][0] for key in keys}}
        rows = [(sources[self._places[key][0]], self._places[key][1]) for key in keys]
        return self.add(
            Shard(
                tuple(keys),
                torch.stack([shard.vision[row] for shard, row in rows]),
                torch.stack([shard.audio[row] for shard, row in rows]),
                torch.stack([shard.has_audio[row] for shard, row in rows]),
            )
        )

    def drop_all_but(self, paths: Iterable[Path]) -> None:
        """Remove the other shards, and what killed runs left half written."""
        keep = set(paths)
        for path in self._folder.iterdir():
            if path not in keep:
                path.unlink(missing_ok=True)

    def _path(self, keys: Sequence[str]) -> Path:
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
        return self._folder / f"{name}.safetensors"

    def _remember(self, path: Path, keys: Sequence[str]) -> None:
        self._places.update({key: (path, row) for row, key in enumerate(keys)})


@torch.inference_mode()
def _encode(
    model: HumanOmniForConditionalGeneration, batch: Sequence[TowerInputs]
) -> tuple[Tensor, Tensor, Tensor]:
    """The towers' outputs, half precision: (B, F, N, Dv), (B, A, Da), and has_audio (B,)."""
    pixels, mel = (tensor.to(model.device) for tensor in stack_inputs(batch))
    vision = model.encode_vision(pixels).half().cpu()
    audio = model.encode_audio(mel).half().cpu()
    if not (vision.isfinite().all() and audio.isfinite().all()):
        raise ValueError("the towers' outputs do not fit half precision: are the weights sound?")
    return vision, audio, torch.tensor([inputs.has_audio for inputs in batch])


def _joined(keys: Sequence[str], batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Shard:
    vision, audio, has_audio = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return Shard(tuple(keys), vision, audio, has_audio)


def _explained(manifest: Path, decoded: Iterator[TowerInputs]) -> Iterator[TowerInputs]:
    try:
        yield from decoded
    except UnreadableMedia as error:
        raise ValueError(
            f"{manifest}: lists a clip that no longer decodes: {error}; restore the file, or "
            "ingest the corpus again"
        ) from error


def _key(clip: Clip, towers: str, settings: MediaSettings) -> str:
    parts = [clip.sha256, towers, json.dumps(asdict(settings), sort_keys=True), _code()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A hash of the code that makes features: DVC reruns the stage when it changes."""
    digest = hashlib.sha256()
    for module in (media, modelling):
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def _clip_bytes(model: HumanOmniForConditionalGeneration) -> int:
    config = model.config
    vision = config.num_frames * config.patch_grid**2 * config.vision_config.hidden_size
    audio = config.audio_tokens * config.audio_config.d_model
    return int(2 * (vision + audio))


def _announce(out: Path, n_clips: int, n_missing: int, clip_bytes: int) -> None:
    """Say what is to come, before it takes its time. Raises ValueError where the disk is full."""
    size = n_missing * clip_bytes
    out.parent.mkdir(parents=True, exist_ok=True)
    free = min(shutil.disk_usage(folder).free for folder in (out.parent, STATE))
    if size > free:
        raise ValueError(f"{out}: needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    Console(stderr=True).print(
        f"features {out.name}: {n_clips} clips, {n_clips - n_missing} of them kept from earlier, "
        f"{n_missing} to compute, {size / 1e6:.0f} MB"
    )


def _commit(index: pd.DataFrame, shards: Sequence[Path], out: Path) -> None:
    """Put index and shards at `out` in one step, the shards as hard links where that can be."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in shards:
        try:
            os.link(path, partial / path.name)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, partial / path.name)
    index.to_parquet(partial / INDEX, index=False)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


@contextmanager
def _spare_threads(workers: int) -> Iterator[None]:
    """The towers take the cores that the decoding processes leave, one at least."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, usable_cores() - (workers or usable_cores())))
    yield
    torch.set_num_threads(before)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0.0:.0f} clips/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
