"""dvc.lock: what each stage last read and wrote, and the hash that a file or folder has now."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from r1omni.params_file import read_yaml


@dataclass(frozen=True)
class Lock:
    """dvc.lock: path -> MD5 of every output, and stage -> the same of what it read."""

    outs: Mapping[str, str]
    deps: Mapping[str, Mapping[str, str]]


def dvc_hash(path: Path) -> str:
    """DVC's hash: MD5 of the file, or of the folder's list of files with theirs."""
    if path.is_file():
        return _md5(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    entries = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    entries.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def read_lock(lock: Path) -> Lock:
    """dvc.lock; empty where there is none."""
    stages: Mapping[str, Any] = {}
    if lock.is_file():
        stages = read_yaml(lock)[1].get("stages") or {}
    outs = {path: md5 for stage in stages.values() for path, md5 in _hashes(stage, "outs")}
    return Lock(outs, {name: dict(_hashes(stage, "deps")) for name, stage in stages.items()})


def _hashes(stage: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    return ((e["path"], e["md5"]) for e in stage.get(key) or [] if "md5" in e)
