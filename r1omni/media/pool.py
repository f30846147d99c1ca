"""Files decoded in many processes, delivered in order; one that hangs or dies costs one file.

The processes import only r1omni.media and torchaudio, not transformers, and die with their parent.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from r1omni.limits import Limits, limit_memory
from r1omni.media import (
    MediaSettings,
    Segment,
    Source,
    TowerInputs,
    UnreadableMedia,
    file_of,
    preprocess,
    read_segment,
)

_AHEAD = 32  # files decoded ahead of their reader, per process: what bounds the memory
_GRACE_SECONDS = 5.0  # for a process that closed its pipe to be gone
_PRELOADED = ["r1omni.media", "torchaudio.transforms"]
T = TypeVar("T")


@dataclass(frozen=True)
class Undecoded:
    """A file that could not be decoded, and why; the reason does not repeat the name."""

    path: Path
    reason: str


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def start_forkserver() -> None:
    """Have the server that decoding processes are forked from import what they need, meanwhile."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()


def decode_clips(
    sources: Sequence[Source], settings: MediaSettings, workers: int, limits: Limits
) -> Iterator[TowerInputs | Undecoded]:
    """The towers' inputs of each source, in order, from `workers` processes (0: one per core)."""
    read = partial(_read, settings=settings, max_pixels=limits.max_pixels)
    return read_each(sources, read, workers=workers, limits=limits)


def _read(source: Source, settings: MediaSettings, max_pixels: int) -> TowerInputs:
    if isinstance(source, Segment):
        return read_segment(source, settings, max_pixels)
    return preprocess(source, settings, max_pixels)


def read_each(
    sources: Sequence[Source],
    read: Callable[[Any], T],
    *,
    workers: int,
    limits: Limits,
    ahead: int = _AHEAD,
) -> Generator[T | Undecoded, None, None]:
    """What `read` makes of each file, in order, or why it makes nothing.

    `read` runs in other processes. A file that raises UnreadableMedia, takes longer or more memory
    than `limits`, or ends its process is Undecoded; the others go on.
    """
    n_workers = max(1, min(workers or usable_cores(), len(sources)))
    workers_made: list[_Worker[T]] = []
    own = threading.local()

    def attend(source: Source) -> T | Undecoded:
        """Have this thread's process read a file; replace one that failed."""
        if not hasattr(own, "worker"):
            own.worker = _Worker(read, limits)
            workers_made.append(own.worker)
        outcome: T | Undecoded | None = own.worker.ask(source)
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
            pending.append(threads.submit(attend, source))
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

    def __init__(self, read: Callable[[Any], T], limits: Limits) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._limits = limits
        self._late = False
        self._stopping = threading.Lock()
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, read, limits.memory_mb), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its death is felt here
        self._ours.recv()  # it has begun: no file's time is spent on its imports

    def ask(self, source: Source) -> T | Undecoded | None:
        """What became of the file; None where the process failed over it."""
        try:
            self._ours.send(source)
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
            self._process.join()
            self._ours.close()

    def exit_reason(self) -> str:
        """How it failed over its last file."""
        if self._late:
            return f"not decoded within {self._limits.timeout_seconds:g} s"
        self._process.join(timeout=_GRACE_SECONDS)
        code = self._process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the decoding process died of it ({name})"


def _serve(connection: Connection, read: Callable[[Any], Any], memory_mb: int) -> None:
    """Answer every path until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    import torch

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    limit_memory(memory_mb)
    connection.send("begun")
    with suppress(EOFError):
        while True:
            source = connection.recv()
            connection.send(_attempt(source, read))


def _attempt(source: Source, read: Callable[[Any], T]) -> T | Undecoded:
    path = file_of(source)
    try:
        return read(source)
    except UnreadableMedia as error:
        return Undecoded(path, str(error).removeprefix(f"{path}: "))


def _end_with(sentinel: int) -> None:
    """End as soon as the parent is gone, be it by SIGKILL."""
    wait([sentinel])
    os._exit(1)
