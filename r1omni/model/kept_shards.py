"""The shards of features that earlier runs finished, found again by the keys of their rows.

Beside each shard stands a file with its checksum, written before the shard appears. A shard is used
only if its bytes have that checksum: the clips of any other are computed again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from r1omni.model.checksums import sha256_of
from r1omni.model.feature_store import Features, join_rows, read_shard, write_shard

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2  # how often rank 0 checks for the other ranks' shards


class KeptShards:
    """The shards in `folder`, each named by its rows, whichever process or run made them.

    `read`: read and check the shards that are there, so that their rows can be used again. A task
    of a Ray cluster leaves that to the driver: many processes would each read everything.
    """

    def __init__(self, folder: Path, *, read: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        self._unusable: set[tuple[Path, int]] = set()  # with the inode: others may replace the file
        for path in sorted(folder.glob("*.safetensors") if read else ()):
            try:
                inode = path.stat().st_ino
            except FileNotFoundError:  # another process has just dropped it
                continue
            try:
                if not _is_sound(path):
                    raise ValueError(f"{path}: is damaged or has no checksum")
                self._remember(path, read_shard(path).keys)
            except (ValueError, FileNotFoundError) as error:  # also the layout of an older version
                if path.exists():
                    self._unusable.add((path, inode))
                    _log.warning("%s: it is made again", error)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def path(self, keys: Sequence[str]) -> Path:
        """Where the shard of exactly these rows, in this order, is kept once it is made."""
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
        return self._folder / f"{name}.safetensors"

    def holds(self, keys: Sequence[str]) -> bool:
        """Whether these rows are done: sound in their shard, or listed as rejects."""
        if self._has_shard(keys):
            return True
        rejected = self.rejected(keys)
        rest = [key for key in keys if key not in rejected]
        return bool(rejected) and (not rest or self._has_shard(rest))

    def checksum(self, keys: Sequence[str]) -> str:
        """The checksum of the shard of exactly these rows."""
        return _checksum_file(self.path(keys)).read_text(encoding="utf-8").strip()

    def reject(self, keys: Sequence[str], reasons: Mapping[str, str]) -> None:
        """Keep why some of these rows have no features; the others' shard must be there already."""
        path = self._rejects(keys)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(dict(reasons)), encoding="utf-8")
        partial.replace(path)

    def rejected(self, keys: Sequence[str]) -> dict[str, str]:
        """Which of these rows have no features, and why."""
        path = self._rejects(keys)
        if self._has_shard(keys) or not path.is_file():
            return {}
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def forget_rejects(self) -> None:
        """Have the next run try again what could not be decoded."""
        for path in self._folder.glob("*.rejects.json"):
            path.unlink(missing_ok=True)

    def add(self, keys: Sequence[str], new: Mapping[str, Features]) -> None:
        """Keep the shard of these rows: those in `new`, and the others from earlier shards."""
        earlier = {self._places[key][0] for key in keys if key not in new}
        sources = {path: read_shard(path) for path in earlier}
        rows = []
        for key in keys:
            if key in new:
                rows.append(new[key])
            else:
                path, row = self._places[key]
                rows.append(sources[path].row(row))
        shard = join_rows(keys, rows)
        sums = _checksum_file(self.path(keys))
        write_shard(shard, self.path(keys), lambda checksum: _write_line(sums, checksum))
        self._remember(self.path(keys), keys)

    def wait_for(self, groups: Sequence[Sequence[str]], patience: float) -> None:
        """Return when every group's shard exists; other ranks may still be making some.

        Raises TimeoutError if no further shard appears for `patience` seconds.
        """
        left, since = len(groups), time.monotonic()
        while missing := sum(not self.holds(group) for group in groups):
            if missing < left:
                left, since = missing, time.monotonic()
            elif time.monotonic() - since > patience:
                raise TimeoutError(
                    f"{self._folder}: {missing} of {len(groups)} shards are missing, and no other "
                    f"rank finished one for {patience:g} s (machine.rank_patience_seconds): start "
                    "the ranks that ended again, or run the stage with fewer"
                )
            time.sleep(_POLL_SECONDS)

    def drop_all_but(self, paths: Iterable[Path]) -> None:
        """Remove the other shards, and what killed runs left half written."""
        keep = {file for path in paths for file in (path, _checksum_file(path))}
        for path in self._folder.iterdir():
            if path not in keep:
                path.unlink(missing_ok=True)

    def _has_shard(self, keys: Sequence[str]) -> bool:
        path = self.path(keys)
        return path.is_file() and (path, path.stat().st_ino) not in self._unusable

    def _rejects(self, keys: Sequence[str]) -> Path:
        return self.path(keys).with_suffix(".rejects.json")

    def _remember(self, path: Path, keys: Sequence[str]) -> None:
        self._places.update({key: (path, row) for row, key in enumerate(keys)})


def _checksum_file(shard: Path) -> Path:
    return shard.with_suffix(".sha256")


def _write_line(path: Path, line: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{line}\n", encoding="utf-8")
    partial.replace(path)


def _is_sound(shard: Path) -> bool:
    sums = _checksum_file(shard)
    return sums.is_file() and sums.read_text(encoding="utf-8").strip() == sha256_of(shard)
