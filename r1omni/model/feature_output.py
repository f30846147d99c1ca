"""Where features are written: the room on the disk, the progress, and the folder's one rename."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pandas as pd
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

from r1omni.machine.environment import rank
from r1omni.model.checksums import write_sums
from r1omni.model.feature_rejects import FeatureReject, write_feature_rejects
from r1omni.model.feature_store import INDEX
from r1omni.model.kept_shards import KeptShards

_log = logging.getLogger(__name__)

FreeBytes = Callable[[Path], int]
STATE: Final = Path(".state/features")
_LOG_SECONDS: Final = 30.0  # between lines of progress where there is no terminal for a bar


def free_on_disk(folder: Path) -> int:
    """How many bytes the folder's disk can still take."""
    return shutil.disk_usage(folder).free


class Disk:
    """The room that features take, on the disk where they are made and on the one they go to."""

    def __init__(
        self, out: Path, free_bytes: FreeBytes, min_free_gb: float, clip_bytes: int
    ) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        self._out, self._free_bytes, self._clip_bytes = out, free_bytes, clip_bytes
        self._reserve = int(min_free_gb * 1e9)

    def announce(self, groups: Sequence[Sequence[str]], kept: KeptShards) -> None:
        """Print what will be written. Raises ValueError if the disk has too little room."""
        n_clips = sum(map(len, groups))
        n_written = sum(len(group) for group in groups if not kept.holds(group))
        n_missing = sum(key not in kept for group in groups for key in group)
        size, free = n_written * self._clip_bytes, self._free()
        if size + self._reserve > free:
            raise ValueError(
                f"{self._out}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free and "
                f"machine.min_free_gb keeps {self._reserve / 1e9:.2f} of them"
            )
        if rank() == 0:
            Console(stderr=True).print(
                f"features {self._out.name}: {n_clips} clips, {n_clips - n_missing} of them kept "
                f"from earlier, {n_missing} to compute, {size / 1e6:.0f} MB of "
                f"{free / 1e9:.1f} GB free"
            )

    def check(self, n_clips: int) -> None:
        """Raise ValueError where a shard of so many clips would leave too little."""
        free = self._free()
        if n_clips * self._clip_bytes + self._reserve > free:
            raise ValueError(
                f"{self._out}: stopped with {free / 1e9:.2f} GB free, of which "
                f"machine.min_free_gb keeps {self._reserve / 1e9:.2f}; what is finished is kept "
                "in .state/features: make room and run the stage again"
            )

    def _free(self) -> int:
        return min(self._free_bytes(folder) for folder in (self._out.parent, STATE))


def commit_features(
    index: pd.DataFrame, shards: Sequence[Path], rejects: Sequence[FeatureReject], out: Path
) -> None:
    """Put index, shards and rejects at `out` in one step, the shards as hard links if possible."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in shards:
        try:
            os.link(path, partial / path.name)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, partial / path.name)
    index.to_parquet(partial / INDEX, index=False)
    write_feature_rejects(rejects, partial)
    write_sums(partial)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0.0:.0f} clips/s")


@contextmanager
def features_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error; elsewhere a line in the log now and then."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
               TimeRemainingColumn())  # fmt: skip
    start = logged = time.monotonic()
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"features {name}", total=total)

        def advance(n_clips: int) -> None:
            nonlocal done, logged
            done += n_clips
            progress.advance(task, n_clips)
            now = time.monotonic()
            if not console.is_terminal and now - logged >= _LOG_SECONDS:
                logged, rate = now, done / (now - start)
                left = (total - done) / rate
                _log.info("features %s: %d of %d clips, %.1f a second, about %.0f s left",
                          name, done, total, rate, left)  # fmt: skip

        yield advance
