"""Files -> what is in them, opened in worker processes that may hang or die."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finding:
    """What a readable clip holds: seconds, frames a second, frames, and the hash of its bytes."""

    duration: float
    fps: float
    n_frames: int
    has_audio: bool
    sha256: str


@dataclass(frozen=True)
class Unreadable:
    """Why a clip cannot be decoded."""

    detail: str


def probe_clips(
    paths: Sequence[Path], *, workers: int, timeout_seconds: float, advance: Callable[[], None]
) -> list[Finding | Unreadable]:
    """What is in each of `paths`, in their order; `advance` is called after each.

    A worker that takes longer than `timeout_seconds` over a clip, or dies of it, is replaced, and
    the clip is unreadable. Raises RuntimeError if workers cannot run here at all.
    """
    results: dict[int, Finding | Unreadable] = {}
    todo = iter(enumerate(paths))
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(min(workers or os.cpu_count() or 1, len(paths))):
                _hire(selector, timeout_seconds)
            while len(results) < len(paths):
                for key, _ in selector.select():
                    worker: _Worker = key.data
                    index, answer = worker.read()
                    if index is not None:
                        results[index] = answer or Unreadable(worker.cause_of_death())
                        advance()
                    if answer is None and index is not None:
                        selector.unregister(worker.answers)
                        worker.stop()
                        _hire(selector, timeout_seconds)
                    elif (job := next(todo, None)) is not None:
                        worker.start(*job)
        finally:
            for key in list(selector.get_map().values()):
                key.data.stop()
    return [results[index] for index in range(len(paths))]


class _Worker:
    """A running probe_worker and the index of the clip that it is at."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.index: int | None = None
        self.chatter = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        search = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "r1omni.corpora.probe_worker", str(timeout_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.chatter,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.orders, self.answers = self.process.stdin, self.process.stdout

    def start(self, index: int, path: Path) -> None:
        """Give the worker its next clip."""
        self.index = index
        with suppress(BrokenPipeError):  # it has just died: the next read tells
            self.orders.write(json.dumps(str(path)).encode("ascii") + b"\n")
            self.orders.flush()

    def read(self) -> tuple[int | None, Finding | Unreadable | None]:
        """The clip that it was at, if any, and its answer, or None if it died of that clip."""
        index, self.index = self.index, None
        line = self.answers.readline()
        if not line.endswith(b"\n"):
            if index is None:
                raise RuntimeError(f"cannot open clips: {self.cause_of_death()}")
            return index, None
        answer = json.loads(line)
        if index is None:  # it says that it is ready
            return None, None
        if "error" in answer:
            return index, Unreadable(answer["error"])
        return index, Finding(**answer)

    def cause_of_death(self) -> str:
        """How the process ended, and what it said last."""
        code = self.process.wait()
        if code == -signal.SIGALRM:
            return f"not decoded within {self.timeout_seconds:g} s"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.chatter.seek(0)
        said = self.chatter.read().decode("utf-8", "replace").strip().splitlines()
        return f"the decoding process died ({name}){': ' + said[-1][:200] if said else ''}"

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.orders.close()
        self.answers.close()
        self.chatter.close()


def _hire(selector: selectors.BaseSelector, timeout_seconds: float) -> None:
    worker = _Worker(timeout_seconds)
    selector.register(worker.answers, selectors.EVENT_READ, worker)
