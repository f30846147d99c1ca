"""The shards of features that earlier runs finished, found again by the keys of their rows."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from r1omni.model.feature_store import Shard, read_shard, write_shard

_LOOK_SECONDS = 0.2  # how often the first process looks for the shards of the others


class KeptShards:
    """The shards in `folder`, each named by its rows, whichever process or run made them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                self._remember(path, read_shard(path).keys)
            except ValueError:
                if path.exists():  # else another process has just dropped it
                    raise

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def path(self, keys: Sequence[str]) -> Path:
        """Where the shard of exactly these rows, in this order, is kept once it is made."""
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
        return self._folder / f"{name}.safetensors"

    def holds(self, keys: Sequence[str]) -> bool:
        """Whether these rows are done: in their shard, or told what could not be decoded."""
        return self.path(keys).is_file() or self._rejects(keys).is_file()

    def reject(self, keys: Sequence[str], reasons: Mapping[str, str]) -> None:
        """Keep why some of these rows have no features; the others' shard must be there already."""
        path = self._rejects(keys)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(dict(reasons)), encoding="utf-8")
        partial.replace(path)

    def rejected(self, keys: Sequence[str]) -> dict[str, str]:
        """Which of these rows have no features, and why."""
        path = self._rejects(keys)
        if self.path(keys).is_file() or not path.is_file():
            return {}
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def forget_rejects(self) -> None:
        """Have the next run try again what could not be decoded."""
        for path in self._folder.glob("*.rejects.json"):
            path.unlink(missing_ok=True)

    def add(self, keys: Sequence[str], new: Shard | None) -> None:
        """Keep the shard of these rows: those in `new`, and the others from earlier shards."""
        computed = {} if new is None else {key: (new, row) for row, key in enumerate(new.keys)}
        earlier = {self._places[key][0] for key in keys if key not in computed}
        sources = {path: read_shard(path) for path in earlier}
        rows = [
            computed[key]
            if key in computed
            else (sources[self._places[key][0]], self._places[key][1])
            for key in keys
        ]
        shard = Shard(
            tuple(keys),
            torch.stack([source.vision[row] for source, row in rows]),
            torch.stack([source.audio[row] for source, row in rows]),
            torch.stack([source.has_audio[row] for source, row in rows]),
        )
        write_shard(shard, self.path(keys))
        self._remember(self.path(keys), keys)

    def wait_for(self, groups: Sequence[Sequence[str]]) -> None:
        """Return when every group's shard is there; other processes may be making them."""
        while not all(map(self.holds, groups)):
            time.sleep(_LOOK_SECONDS)

    def drop_all_but(self, paths: Iterable[Path]) -> None:
        """Remove the other shards, and what killed runs left half written."""
        keep = set(paths)
        for path in self._folder.iterdir():
            if path not in keep:
                path.unlink(missing_ok=True)

    def _rejects(self, keys: Sequence[str]) -> Path:
        return self.path(keys).with_suffix(".rejects.json")

    def _remember(self, path: Path, keys: Sequence[str]) -> None:
        self._places.update({key: (path, row) for row, key in enumerate(keys)})
