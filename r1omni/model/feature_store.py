"""Tower outputs on disk: shards of half-precision tensors, and the index that finds a clip's row.

A folder holds `index.parquet` (clip_id, key, shard, row, has_audio, towers, sha256), the shards
that it names and the checksums of its tables; `sha256` is the checksum of the row's shard. Clips
may differ in their number of tokens: a shard holds each feature of its clips end to end, and where
each clip begins.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1omni.model.checksums import sha256_of, verify, verify_table

INDEX: Final = "index.parquet"
_OFFSETS: Final = ".offsets"
COLUMNS: Final = ("clip_id", "key", "shard", "row", "has_audio", "towers", "sha256")


# One clip's features by name, (n, …) each, n being the clip's own; a name may be missing.
Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shard:
    """One file's rows: `keys` names each of the K rows."""

    keys: tuple[str, ...]
    tensors: Mapping[str, Tensor]  # by name, all rows end to end
    offsets: Mapping[str, Tensor]  # by name int64 (K + 1,): where each row begins and the last ends

    def row(self, row: int) -> Features:
        """One row's features, without those of which it has nothing."""
        found = {}
        for name, tensor in self.tensors.items():
            start, end = self.offsets[name][row : row + 2].tolist()
            if end > start:
                found[name] = tensor[start:end]
        return found


def join_rows(keys: Sequence[str], rows: Sequence[Features]) -> Shard:
    """The shard of these rows, in this order."""
    tensors, offsets = {}, {}
    for name in sorted({name for row in rows for name in row}):
        lengths = torch.tensor([0, *(len(row[name]) if name in row else 0 for row in rows)])
        tensors[name] = torch.cat([row[name] for row in rows if name in row])
        offsets[name] = lengths.cumsum(0)
    return Shard(tuple(keys), tensors, offsets)


def write_shard(
    shard: Shard, path: Path, before: Callable[[str], object] = lambda checksum: None
) -> str:
    """The checksum of the shard that is written, atomically; equal shards become equal bytes.

    `before` is called with the checksum just before the shard appears at `path`. Raises ValueError,
    leaving nothing behind, if the shard cannot be written (a full disk).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    offsets = {f"{name}{_OFFSETS}": offset for name, offset in shard.offsets.items()}
    try:
        save_file({**shard.tensors, **offsets}, partial, metadata={"keys": json.dumps(shard.keys)})
        checksum = sha256_of(partial)
        before(checksum)
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written: {error}") from error
    return checksum


def read_shard(path: Path) -> Shard:
    """A shard whose tensors are memory-mapped: only the rows that are used are read.

    Raises ValueError naming the file where it is missing or no shard.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = json.loads((file.metadata() or {})["keys"])
            names = [name for name in file.keys() if not name.endswith(_OFFSETS)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            offsets = {name: file.get_tensor(f"{name}{_OFFSETS}") for name in names}
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path}: not a shard of features: {error}") from error
    return Shard(tuple(keys), tensors, offsets)


class FeatureStore:
    """The features of every clip in some folders, read when asked for.

    Shards are opened at first use and stay mapped, so that the operating system's page cache is the
    only cache: a small corpus is served from memory, and a large one takes no more than there is.
    The index's checksum is verified when the store is made, a shard's when it is opened.
    Raises ValueError, naming the folder, for one without features, for a clip in two folders and
    for folders made by different towers; naming the file, for a damaged index or shard.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [str(folder) for folder in folders]
        self._places: dict[str, tuple[Path, int]] = {}
        self._checksums: dict[Path, str] = {}
        self._shards: dict[Path, Shard] = {}
        towers: dict[str, Path] = {}
        for folder in folders:
            index = _read_index(folder)
            for clip_id, shard, row in zip(index.clip_id, index.shard, index.row, strict=True):
                if clip_id in self._places:
                    first = self._places[clip_id][0].parent
                    raise ValueError(f"{folder}: clip {clip_id!r} has features in {first} too")
                self._places[clip_id] = (folder / shard, int(row))
            self._checksums |= {
                folder / shard: sha256
                for shard, sha256 in zip(index["shard"], index.sha256, strict=True)
            }
            for fingerprint in index.towers.unique():
                towers.setdefault(fingerprint, folder)
        if len(towers) > 1:
            made = ", ".join(f"{folder} by {name}" for name, folder in towers.items())
            raise ValueError(
                f"features of different towers do not mix: {made}; run the stage again"
            )
        self.towers = next(iter(towers), None)  # Backbone.tower_fingerprint of those that made them

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def load(self, clip_ids: Sequence[str]) -> list[Features]:
        """The clips' features. Raises KeyError, naming clip and folders, for one without any."""
        return [self._find(clip_id) for clip_id in clip_ids]

    def largest(self, clip_ids: Sequence[str]) -> str:
        """The clip with the most tokens, the first of equal ones. No features are read for it.

        Raises as `load` does.
        """
        offsets: dict[Path, list[Tensor]] = {}

        def n_tokens(clip_id: str) -> int:
            path, row = self._place(clip_id)
            if path not in offsets:
                try:
                    offsets[path] = list(read_shard(path).offsets.values())
                except ValueError:
                    verify(path, self._checksums[path], INDEX)  # its error says what to do
                    raise
            return sum(int(starts[row + 1] - starts[row]) for starts in offsets[path])

        return max(clip_ids, key=n_tokens)

    def _place(self, clip_id: str) -> tuple[Path, int]:
        if clip_id not in self._places:
            raise KeyError(f"clip {clip_id!r} has no features in {', '.join(self._folders)}")
        return self._places[clip_id]

    def _find(self, clip_id: str) -> Features:
        path, row = self._place(clip_id)
        if path not in self._shards:
            verify(path, self._checksums[path], INDEX)
            self._shards[path] = read_shard(path)
        return self._shards[path].row(row)


def _read_index(folder: Path) -> pd.DataFrame:
    path = folder / INDEX
    if not path.is_file() or not verify_table(path):
        raise ValueError(f"{path}: no such index of features; run the features stage")
    try:
        index = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}; run the features stage") from error
    if missing := [name for name in COLUMNS if name not in index.columns]:
        raise ValueError(f"{path}: missing columns {missing}; an index has {list(COLUMNS)}")
    return index
