"""Files decoded by worker processes, in order; a worker that hangs or dies costs one file.

Ingestion, features and predict all use this pool. Workers are forked from a server that has
imported `preload`, never transformers, and end with their parent.
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
from r1omni.media import (
    Preparation,
    Segment,
    Source,
    TowerInputs,
    UnreadableMedia,
    file_of,
    preprocess,
    read_segment,
)

_QUEUE_PER_PROCESS = 32  # decoded files that may wait for their reader; it bounds the memory
_GRACE_SECONDS = 5.0  # from a kill or a closed pipe to the end of the process
_FILES_PER_PROCESS = 2000  # then the worker is replaced, so that decoders' leaks stay small
PRELOAD = ("r1omni.media", "torchaudio.transforms")
T = TypeVar("T")
_hiding_main = threading.Lock()


@dataclass(frozen=True)
class Undecoded:
    """A file that could not be decoded; the reason does not repeat its name."""

    path: Path
    reason: str


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def start_forkserver(preload: Sequence[str] = PRELOAD) -> None:
    """Start the server that workers are forked from; it imports `preload` in the background.

    BLAS and torch use one thread in it, because there is a worker per core.
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
    sources: Sequence[Source], preparation: Preparation, workers: int, limits: Limits
) -> Iterator[TowerInputs | Undecoded]:
    """The towers' inputs of each source, in order, from `workers` processes (0: one per core)."""
    read = partial(_read, preparation=preparation, max_pixels=limits.max_pixels)
    return read_each(sources, read, workers=workers, limits=limits)


def _read(source: Source, preparation: Preparation, max_pixels: int) -> TowerInputs:
    if isinstance(source, Segment):
        return read_segment(source, preparation, max_pixels)
    return preprocess(source, preparation, max_pixels)


def read_each(
    sources: Iterable[Source],
    read: Callable[[Any], T],
    *,
    workers: int,
    limits: Limits,
    ahead: int = _QUEUE_PER_PROCESS,
    preload: Sequence[str] = PRELOAD,
) -> Generator[T | Undecoded, None, None]:
    """The result of `read` for each file, in order, or Undecoded.

    `read` runs in `workers` processes (0: one per core). A file is Undecoded if it raises
    UnreadableMedia, exceeds the time or memory of `limits`, or ends its worker; the other files are
    still read. Raises RuntimeError if a worker ends before its first file.
    """
    n_workers = workers or usable_cores()
    start_forkserver(preload)
    workers_made: list[_Worker[T]] = []
    own = threading.local()

    def read_in_worker(source: Source) -> T | Undecoded:
        """Read a file in this thread's worker; a worker that failed is replaced."""
        if hasattr(own, "worker") and own.worker.n_files >= _FILES_PER_PROCESS:
            own.worker.stop()
            del own.worker
        if not hasattr(own, "worker"):
            own.worker = _Worker(read, limits, preload)
            workers_made.append(own.worker)
        outcome: T | Undecoded | None = own.worker.read_file(source)
        if outcome is None:
            reason = own.worker.exit_reason()
            own.worker.stop()
            del own.worker
            return Undecoded(file_of(source), reason)
        return outcome

    pending: deque[Future[T | Undecoded]] = deque()
    threads = ThreadPoolExecutor(n_workers)
    try:
        for source in sources:
            pending.append(threads.submit(read_in_worker, source))
            if len(pending) > n_workers * ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers_made:
            worker.stop()


class _Worker(Generic[T]):
    """A process that reads one file at a time and ends with this one."""

    def __init__(self, read: Callable[[Any], T], limits: Limits, preload: Sequence[str]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.n_files = 0
        self._limits = limits
        self._timed_out = False
        self._stopping = threading.Lock()
        self._pipe, worker_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(worker_end, read, preload, limits.memory_mb), daemon=True
        )
        with _hidden_main():
            self._process.start()
        worker_end.close()  # then the pipe closes when the worker dies
        try:
            self._pipe.recv()  # it has started: its imports do not count against a file's time
        except EOFError:
            raise RuntimeError(f"cannot open clips: {self.exit_reason()}") from None

    def read_file(self, source: Source) -> T | Undecoded | None:
        """The result for the file, or Undecoded; None if the process failed or timed out."""
        self.n_files += 1
        try:
            self._pipe.send(source)
            if not self._pipe.poll(self._limits.timeout_seconds):
                self._timed_out = True
                return None
            outcome: T | Undecoded = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return outcome

    def stop(self) -> None:
        """Kill the process. Its thread and the reader may both call this."""
        with self._stopping:  # else both would close the same file descriptor
            self._process.kill()
            self._process.join(timeout=_GRACE_SECONDS)  # a dead network drive outlasts SIGKILL
            self._pipe.close()

    def exit_reason(self) -> str:
        """Why the process failed at its last file."""
        if self._timed_out:
            return f"not decoded within {self._limits.timeout_seconds:g} s"
        self._process.join(timeout=_GRACE_SECONDS)
        code = self._process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the decoding process died of it ({name})"


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Let a worker start without importing the caller's script, which may lack a main guard."""
    with _hiding_main:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _serve(
    connection: Connection, read: Callable[[Any], Any], preload: Sequence[str], memory_mb: int
) -> None:
    """Read every path that arrives, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    for module in preload:  # a fork server that was started for other work may lack one
        importlib.import_module(module)
    np.ones((64, 64)) @ np.ones((64, 64))  # OpenBLAS allocates now, so no clip's limit counts it
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    limit_memory(memory_mb)
    connection.send("begun")
    with suppress(EOFError):
        while True:
            source = connection.recv()
            connection.send(_read_or_reason(source, read))


def _read_or_reason(source: Source, read: Callable[[Any], T]) -> T | Undecoded:
    path = file_of(source)
    try:
        return read(source)
    except UnreadableMedia as error:
        return Undecoded(path, str(error).removeprefix(f"{path}: "))


def _exit_with_parent(sentinel: int) -> None:
    """End this process when its parent ends, even by SIGKILL."""
    wait([sentinel])
    os._exit(1)
