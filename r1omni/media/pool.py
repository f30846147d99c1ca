"""Files decoded in many processes, delivered in order; one that hangs or dies costs one file.

Ingestion, features and predict all read through here. The processes are forked from a server that
has imported `preload`, never transformers, and they end with their parent.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import numpy as np

from r1omni.limits import Limits, limit_memory
from r1omni.media import MediaSettings, TowerInputs, UnreadableMedia, preprocess

_AHEAD = 32  # files decoded ahead of their reader, per process: what bounds the memory
_GRACE_SECONDS = 5.0  # for a process that was killed or closed its pipe to be gone
_FILES_PER_PROCESS = 2000  # then it is replaced: whatever a decoder leaks stays small
PRELOAD = ("r1omni.media", "torchaudio.transforms")
T = TypeVar("T")
_hiding = threading.Lock()


@dataclass(frozen=True)
class Undecoded:
    """A file that could not be decoded, and why; the reason does not repeat the name."""

    path: Path
    reason: str


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def start_forkserver(preload: Sequence[str] = PRELOAD) -> None:
    """Start the server that decoding processes are forked from; it imports `preload` meanwhile.

    BLAS and torch take one thread in it: there is a process per core.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def decode_clips(
    paths: Sequence[Path], settings: MediaSettings, workers: int, limits: Limits
) -> Iterator[TowerInputs | Undecoded]:
    """The towers' inputs of each file, in order, from `workers` processes (0: one per core)."""
    read = partial(preprocess, settings=settings, max_pixels=limits.max_pixels)
    return read_each(paths, read, workers=workers, limits=limits)


def read_each(
    paths: Iterable[Path],
    read: Callable[[Path], T],
    *,
    workers: int,
    limits: Limits,
    ahead: int = _AHEAD,
    preload: Sequence[str] = PRELOAD,
) -> Generator[T | Undecoded, None, None]:
    """What `read` makes of each file, in order, or why it makes nothing.

    `read` runs in `workers` other processes (0: one per core). A file that raises UnreadableMedia,
    takes longer or more memory than `limits`, or ends its process is Undecoded; the others go on.
    Raises RuntimeError if a process ends before its first file.
    """
    n_workers = workers or usable_cores()
    start_forkserver(preload)
    workers_made: list[_Worker[T]] = []
    own = threading.local()

    def attend(path: Path) -> T | Undecoded:
        """Have this thread's process read a file; replace one that failed."""
        if hasattr(own, "worker") and own.worker.n_given >= _FILES_PER_PROCESS:
            own.worker.stop()
            del own.worker
        if not hasattr(own, "worker"):
            own.worker = _Worker(read, limits, preload)
            workers_made.append(own.worker)
        outcome: T | Undecoded | None = own.worker.ask(path)
        if outcome is None:
            reason = own.worker.exit_reason()
            own.worker.stop()
            del own.worker
            return Undecoded(path, reason)
        return outcome

    pending: deque[Future[T | Undecoded]] = deque()
    threads = ThreadPoolExecutor(n_workers)
    try:
        for path in paths:
            pending.append(threads.submit(attend, path))
            if len(pending) > n_workers * ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers_made:
            worker.stop()


class _Worker(Generic[T]):
    """A process that reads one file at a time, and ends with this one."""

    def __init__(self, read: Callable[[Path], T], limits: Limits, preload: Sequence[str]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.n_given = 0
        self._limits = limits
        self._late = False
        self._stopping = threading.Lock()
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, read, preload, limits.memory_mb), daemon=True
        )
        with _hidden_main():
            self._process.start()
        theirs.close()  # so that its death is felt here
        try:
            self._ours.recv()  # it has begun: no file's time is spent on its imports
        except EOFError:
            raise RuntimeError(f"cannot open clips: {self.exit_reason()}") from None

    def ask(self, path: Path) -> T | Undecoded | None:
        """What became of the file; None if the process failed."""
        self.n_given += 1
        try:
            self._ours.send(path)
            if not self._ours.poll(self._limits.timeout_seconds):
                self._late = True
                return None
            outcome: T | Undecoded = self._ours.recv()
        except (EOFError, OSError):
            return None
        return outcome

    def stop(self) -> None:
        """End the process, whatever it is doing. Its thread and the reader may both call this."""
        with self._stopping:  # or both would close the same file descriptor
            self._process.kill()
            self._process.join(timeout=_GRACE_SECONDS)  # a dead network drive outlasts SIGKILL
            self._ours.close()

    def exit_reason(self) -> str:
        """How it failed over its last file."""
        if self._late:
            return f"not decoded within {self._limits.timeout_seconds:g} s"
        self._process.join(timeout=_GRACE_SECONDS)
        code = self._process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the decoding process died of it ({name})"


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Let a process start without importing the caller's script, which may have no main guard."""
    with _hiding:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _serve(
    connection: Connection, read: Callable[[Path], Any], preload: Sequence[str], memory_mb: int
) -> None:
    """Answer every path until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    for module in preload:  # a fork server that was started for other work may lack one
        importlib.import_module(module)
    np.ones((64, 64)) @ np.ones((64, 64))  # OpenBLAS takes its buffers now: they are no clip's
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    limit_memory(memory_mb)
    connection.send("begun")
    with suppress(EOFError):
        while True:
            path = connection.recv()
            connection.send(_attempt(path, read))


def _attempt(path: Path, read: Callable[[Path], T]) -> T | Undecoded:
    try:
        return read(path)
    except UnreadableMedia as error:
        return Undecoded(path, str(error).removeprefix(f"{path}: "))


def _end_with(sentinel: int) -> None:
    """End as soon as the parent is gone, be it by SIGKILL."""
    wait([sentinel])
    os._exit(1)
