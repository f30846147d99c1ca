"""Files in artifacts of runs and models: large files are stored once, and all are read-only."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from r1omni.tracking.store import local_path

# A hard link saves a second copy on disk. A smaller file is copied: the saving is not worth a
# shared inode.
MIN_LINKED_BYTES = 1 << 20  # bytes
WRITABLE = 0o222
READ_ONLY = 0o444

logger = logging.getLogger(__name__)


def store_files(client: Any, address: str, source: Path, folder: str) -> None:
    """Add a file, or all files of a directory, to the artifacts at `address`, as read-only files.

    On the same disk a large read-only file is hard-linked (DVC makes committed files read-only). A
    writable file is copied, and so is every file for a server with its own artifact store.
    """
    target = local_path(address)
    if target is None:
        _upload(client, address, source, folder)
        return
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    for path in (p for p in files if p.is_file()):
        # Outside the checkpoint's folder: a killed `register` leaves no file there.
        temporary = target / f".{os.getpid()}.new"
        _store_file(path.resolve(), target / folder / path.relative_to(root), temporary)


def _upload(client: Any, address: str, source: Path, folder: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(address, tracking_uri=client.tracking_uri)
    upload = repository.log_artifacts if source.is_dir() else repository.log_artifact
    upload(str(source), folder or None)


def _store_file(source: Path, target: Path, temporary: Path) -> None:
    status = source.stat()
    linkable = status.st_size >= MIN_LINKED_BYTES and not status.st_mode & WRITABLE
    if linkable and target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    if not (linkable and _try_hard_link(source, temporary)):
        shutil.copyfile(source, temporary)
        temporary.chmod(READ_ONLY)
    temporary.replace(target)


def _try_hard_link(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError as error:  # another disk
        logger.info("%s: copied, not linked: %s", target, error)
        return False
    return True
