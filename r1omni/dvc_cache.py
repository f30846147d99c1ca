"""`r1omni doctor --cache`: compares every object of DVC's cache with the MD5 in its name.

DVC hashes a file when it enters the cache and trusts it from then on. So DVC links a damaged object
in place of a new output with the same hash, and `dvc status` reports no change.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from r1omni.params_file import read_yaml

_OBJECT: Final = re.compile(r"[0-9a-f]{30}(\.dir)?")  # unfinished transfers have longer names


@dataclass(frozen=True)
class Damaged:
    """An object whose MD5 is not its name.

    `outs`: its paths in the workspace, by dvc.lock and the .dvc files; empty if it belongs to an
    earlier run. `is_own`: a .dvc file names it, so no stage can make it again.
    """

    path: Path
    outs: tuple[str, ...]
    is_own: bool

    def __str__(self) -> str:
        return f"{self.path} is damaged: {', '.join(self.outs) or 'no output of dvc.lock'}"


@dataclass(frozen=True)
class CacheReport:
    """The number of objects and bytes that were read, and the damaged objects."""

    n_objects: int
    n_bytes: int
    damaged: tuple[Damaged, ...]


def find_cache(root: Path) -> Path:
    """DVC's cache folder for the project at `root`, by DVC's settings.

    Raises ValueError if `root` is in no DVC project.
    """
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    environment = {**os.environ, "DO_NOT_TRACK": "true"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        message = (done.stderr.strip().splitlines() or ["dvc cache dir failed"])[0]
        raise ValueError(f"{root.resolve()}: {message}; run this in the project's folder")
    return Path(root, done.stdout.strip().splitlines()[-1])


def check_cache(root: Path, cache: Path) -> CacheReport:
    """Read and hash every object of `cache`; write nothing.

    Raises ValueError for an object, a dvc.lock or a .dvc file that cannot be read.
    """
    objects = [
        path for path in sorted(cache.glob("files/md5/??/*")) if _OBJECT.fullmatch(path.name)
    ]
    uses = _uses(root, cache)
    damaged, n_bytes = [], 0
    console = Console(stderr=True)
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        task = progress.add_task("doctor", total=len(objects))
        for path, (digest, size) in zip(objects, pool.map(_md5, objects), strict=True):
            n_bytes += size
            name = f"{path.parent.name}{path.name}"
            if digest != name.removesuffix(".dir"):
                used = uses.get(name, [])
                outs = tuple(sorted({out for out, _ in used}))
                damaged.append(Damaged(path, outs, any(own for _, own in used)))
            progress.advance(task)
    return CacheReport(len(objects), n_bytes, tuple(damaged))


def render_cache_report(cache: Path, report: CacheReport, removed: bool) -> str:
    """The report as text: each damaged object, then what to do about it."""
    counted = (
        f"{cache}: {report.n_objects:,} objects read, {report.n_bytes / 1e6:,.0f} MB, "
        f"{len(report.damaged)} damaged"
    )
    lines = [*(f"✗ {damaged}" for damaged in report.damaged), counted]
    if not report.damaged:
        return counted
    if removed:
        lines.append("The damaged objects are removed from the cache. Now:")
    else:
        lines.append("To repair: `r1omni doctor --cache --remove` removes them from it. Then:")
    if any(not damaged.is_own for damaged in report.damaged):
        lines.append("  `dvc pull` fetches what you pushed; `dvc repro` makes the rest again")
    if own := sorted({out for d in report.damaged if d.is_own for out in d.outs}):
        lines.append(
            f"  no stage makes {', '.join(own)}: `dvc pull` it, or put a good copy back and "
            "`dvc add` it"
        )
    return "\n".join(lines)


def remove_damaged(report: CacheReport) -> None:
    """Remove the damaged objects from the cache. Files that are linked to them stay."""
    for damaged in report.damaged:
        damaged.path.unlink(missing_ok=True)


def _md5(path: Path) -> tuple[str, int]:
    """The MD5 and the size of a file."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            return digest.hexdigest(), file.tell()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def _uses(root: Path, cache: Path) -> dict[str, list[tuple[str, bool]]]:
    """Object name -> its paths in the workspace, each with whether a .dvc file names it."""
    uses: dict[str, list[tuple[str, bool]]] = {}
    for path, md5, own in _outs(root):
        uses.setdefault(md5, []).append((path, own))
        if md5.endswith(".dir"):
            for relpath, inner in _listed(cache / "files/md5" / md5[:2] / md5[2:]):
                uses.setdefault(inner, []).append((f"{path}/{relpath}", own))
    return uses


def _outs(root: Path) -> Iterator[tuple[str, str, bool]]:
    """Path and object name of each out of the project, and whether a .dvc file names it."""
    lock = root / "dvc.lock"
    if lock.is_file():
        for stage in (read_yaml(lock)[1].get("stages") or {}).values():
            for out in stage.get("outs") or []:
                if "md5" in out:
                    yield out["path"], out["md5"], False
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for file in sorted(name for name in files if name.endswith(".dvc")):
            place = Path(folder, file)
            for out in read_yaml(place)[1].get("outs") or []:
                if "md5" in out:
                    yield str((place.parent / out["path"]).relative_to(root)), out["md5"], True


def _listed(folder_object: Path) -> Iterator[tuple[str, str]]:
    """Relative path and object name of each file that a .dir object lists.

    Empty if the object is missing or damaged: a damaged list is not used, and the report names it.
    """
    try:
        content = folder_object.read_bytes()
    except OSError:
        return
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if f"{digest}.dir" != folder_object.parent.name + folder_object.name:
        return
    entries: list[dict[str, str]] = json.loads(content)
    yield from ((entry["relpath"], entry["md5"]) for entry in entries)
