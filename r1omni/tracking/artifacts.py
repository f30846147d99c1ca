"""Files in a run's artifacts: large ones on disk once, and none that can be edited elsewhere."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from r1omni.tracking.store import local_path

# A hard link saves the disk a second copy; for a small file that is not worth a shared inode.
LINKED_FROM = 1 << 20  # bytes
WRITABLE = 0o222
READ_ONLY = 0o444

logger = logging.getLogger(__name__)


def store_files(client: Any, run_id: str, source: Path, folder: str) -> None:
    """Puts a file, or all files of a directory, into the run's artifacts, as read-only files.

    On the same disk a large file is hard-linked if it is read-only, as DVC makes what it has
    committed. A file that can be edited in place is copied. A tracking server with its own artifact
    store gets a copy.
    """
    target = local_path(client.get_run(run_id).info.artifact_uri)
    if target is None:
        upload = client.log_artifacts if source.is_dir() else client.log_artifact
        upload(run_id, str(source), folder)
        return
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    for path in (p for p in files if p.is_file()):
        # Not in the folder of its own: a killed `register` leaves nothing in a checkpoint.
        temporary = target / f".{os.getpid()}.new"
        _store(path.resolve(), target / folder / path.relative_to(root), temporary)


def _store(source: Path, target: Path, temporary: Path) -> None:
    status = source.stat()
    linkable = status.st_size >= LINKED_FROM and not status.st_mode & WRITABLE
    if linkable and target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    if not (linkable and _linked(source, temporary)):
        shutil.copyfile(source, temporary)
        temporary.chmod(READ_ONLY)
    temporary.replace(target)


def _linked(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError as error:  # another disk
        logger.info("%s: copied, not linked: %s", target, error)
        return False
    return True
