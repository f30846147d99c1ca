"""Files -> what is in them, opened in worker processes that may hang or die."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from r1omni.limits import Limits
from r1omni.media import Segment

_PACKAGE_ROOT = Path(__file__).parents[3]
_QUEUED: Final = 3  # clips that a worker has been given: it need not wait for its next order
_GRACE_SECONDS: Final = 5.0  # after its timeout, a worker that its own alarm did not end is left
_CLIPS_PER_WORKER: Final = 2000  # then it is replaced: whatever a decoder leaks stays small


@dataclass(frozen=True)
class Finding:
    """What a readable clip holds, in the manifest's columns, and the hash of its bytes."""

    duration: float
    fps: float
    n_frames: int
    has_audio: bool
    sha256: str
    audio_duration: float = 0.0
    digital_silence: bool = False
    lost_packets: int = 0
    sound_print: str | None = None
    picture_print: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """Why a clip cannot be decoded."""

    detail: str


Job = tuple[int, Path | Segment]


def probe_clips(
    jobs: Iterable[Job], *, workers: int, limits: Limits
) -> Iterator[tuple[int, Finding | Unreadable]]:
    """What is in each file, under the number that it came with, as soon as it is known.

    The files are asked for as the `workers` processes (0: one per core) become free. A worker that
    takes longer than `limits` over a clip, or dies of it, is replaced, and the clip is unreadable.
    Raises RuntimeError if workers cannot run here at all.
    """
    pool = _Pool(jobs, limits)
    try:
        pool.start(workers or len(os.sched_getaffinity(0)))
        while pool.busy():
            yield from pool.wait()
    finally:
        pool.stop()


class _Pool:
    """The workers, the clips that wait for one, and the pipes on which they answer."""

    def __init__(self, jobs: Iterable[Job], limits: Limits) -> None:
        self.jobs = iter(jobs)
        self.returned: deque[Job] = deque()  # given to a worker that died of another clip
        self.limits = limits
        self.selector = selectors.DefaultSelector()
        self.workers: set[_Worker] = set()

    def start(self, workers: int) -> None:
        """Hire up to `workers` processes, no more than there are clips."""
        for _ in range(workers):
            if (job := next(self.jobs, None)) is None:
                break
            self._hire([job])

    def busy(self) -> bool:
        """Whether any clip is still at a worker."""
        return bool(self.workers)

    def wait(self) -> Iterator[tuple[int, Finding | Unreadable]]:
        """The answers that have come in, or what became of the workers that will not answer."""
        for key, _ in self.selector.select(timeout=1.0):
            worker: _Worker = key.data
            answers = worker.read()
            for answer in answers or ():
                yield worker.finish(), answer
            if answers is None:
                yield worker.finish(), Unreadable(worker.cause_of_death())
                self._replace(worker)
            else:
                self._order(worker)
        for worker in [w for w in self.workers if w.is_overdue()]:
            yield worker.finish(), Unreadable(_too_long(self.limits.timeout_seconds))
            self._replace(worker)

    def stop(self) -> None:
        """End every worker, whatever it is doing."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()
        self.selector.close()

    def _order(self, worker: "_Worker") -> None:
        """Fill the worker's queue; let it go where nothing is left, or it has done its share."""
        worn_out = worker.given >= _CLIPS_PER_WORKER
        while len(worker.queue) < _QUEUED and not worn_out and (job := self._next()) is not None:
            worker.give(job)
        if not worker.queue:
            self._replace(worker)

    def _next(self) -> Job | None:
        return self.returned.popleft() if self.returned else next(self.jobs, None)

    def _replace(self, worker: "_Worker") -> None:
        self.selector.unregister(worker.answers)
        self.workers.remove(worker)
        self.returned.extend(worker.queue)
        worker.stop()
        if (job := self._next()) is not None:
            self._hire([job])

    def _hire(self, jobs: list[Job]) -> None:
        worker = _Worker(self.limits)
        self.workers.add(worker)
        self.selector.register(worker.answers, selectors.EVENT_READ, worker)
        for job in jobs:
            worker.give(job)


class _Worker:
    """A running probe_worker and the clips that it has been given, the one that it is at first."""

    def __init__(self, limits: Limits) -> None:
        self.timeout_seconds = limits.timeout_seconds
        self.queue: deque[Job] = deque()
        self.given = 0
        self.ready = False
        self.unfinished = b""
        self.since = time.monotonic()  # when it began with the first of the queue
        self.chatter = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        search = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "r1omni.corpora.ingestion.probe_worker",
                json.dumps(asdict(limits)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.chatter,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.orders, self.answers = self.process.stdin, self.process.stdout

    def give(self, job: Job) -> None:
        """Put a clip at the end of the worker's queue."""
        if not self.queue:
            self.since = time.monotonic()
        self.queue.append(job)
        self.given += 1
        with suppress(BrokenPipeError):  # it has just died: the next read tells
            self.orders.write(json.dumps(_order(job[1])).encode("ascii") + b"\n")
            self.orders.flush()

    def read(self) -> list[Finding | Unreadable] | None:
        """What it says of the clips that it was at, one after the other; None if it has died."""
        said = os.read(self.answers.fileno(), 2**16)
        if not said and not self.ready:
            raise RuntimeError(f"cannot open clips: {self.cause_of_death()}")
        *lines, self.unfinished = (self.unfinished + said).split(b"\n")
        if lines and not self.ready:  # its first line says just that
            self.ready, self.since = True, time.monotonic()
            lines = lines[1:]
        answers = [json.loads(line) for line in lines]
        found: list[Finding | Unreadable] = [
            Unreadable(answer["error"]) if "error" in answer else Finding(**answer)
            for answer in answers
        ]
        return found if said else None

    def finish(self) -> int:
        """The number of the clip that it was at."""
        self.since = time.monotonic()
        return self.queue.popleft()[0]

    def is_overdue(self) -> bool:
        """Whether it should have been ended by its own alarm long ago, and was not."""
        late = time.monotonic() - self.since - self.timeout_seconds
        return self.ready and bool(self.queue) and late > _GRACE_SECONDS

    def cause_of_death(self) -> str:
        """How the process ended, and what it said last."""
        code = self.process.wait()
        if code == -signal.SIGALRM:
            return _too_long(self.timeout_seconds)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.chatter.seek(max(0, self.chatter.seek(0, os.SEEK_END) - 4096))
        said = self.chatter.read().decode("utf-8", "replace").strip().splitlines()
        return f"the decoding process died ({name}){': ' + said[-1][:200] if said else ''}"

    def stop(self) -> None:
        """End the process. One that the kernel cannot end (a dead network drive) is left behind."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2.0)
        with suppress(BrokenPipeError):
            self.orders.close()
        self.answers.close()
        self.chatter.close()


def _order(source: Path | Segment) -> list[str | float]:
    """What a worker is told: a path, and of a segment its start and end."""
    if isinstance(source, Segment):
        return [str(source.path), source.start, source.end]
    return [str(source)]


def _too_long(timeout_seconds: float) -> str:
    return f"not decoded within {timeout_seconds:g} s"
