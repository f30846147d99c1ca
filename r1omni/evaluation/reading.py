"""Files read ahead of the model in another process: a decoder that dies or hangs costs one file."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from r1omni.evaluation.files import ReadFile, Refusal, read_file
from r1omni.media import MediaSettings, UnreadableMedia

Read = Callable[[Path, MediaSettings], ReadFile]
_AHEAD: Final = 16  # files that the reader may have been given: what bounds the memory


def read_files(
    paths: Sequence[Path], settings: MediaSettings, timeout_seconds: float, read: Read = read_file
) -> Iterator[ReadFile | Refusal]:
    """Each file or why it is refused, in order: also one that is not read within the timeout."""
    waiting, given = deque(paths), deque[Path]()
    while waiting or given:
        with _Reader(settings, read) as reader:
            waiting.extendleft(reversed(given))  # the last reader did not come to them
            given.clear()
            failed = ""
            while not failed and (waiting or given):
                while waiting and len(given) < _AHEAD:
                    given.append(waiting.popleft())
                    reader.give(given[-1])
                outcome = reader.take(timeout_seconds)
                path = given.popleft()
                if isinstance(outcome, str):
                    failed = outcome
                    yield Refusal(str(path), outcome)
                else:
                    yield outcome


def _attempt(path: Path, settings: MediaSettings, read: Read) -> ReadFile | Refusal:
    try:
        return read(path, settings)
    except UnreadableMedia as error:
        return Refusal(str(path), str(error).removeprefix(f"{path}: "))


class _Reader:
    """A process that reads the files that it is given, in their order, and ends with this one."""

    def __init__(self, settings: MediaSettings, read: Read) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["r1omni.evaluation.files", "torchaudio.transforms"])
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, settings, read), daemon=True)
        self._process.start()
        theirs.close()  # so that its death is felt here
        self._ours.recv()  # it has begun: no file's time is spent on its imports

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.kill()
        self._process.join()

    def give(self, path: Path) -> None:
        """Ask for a file. One that died does not hear it, and `take` will say so."""
        try:
            self._ours.send(path)
        except BrokenPipeError:
            return

    def take(self, timeout_seconds: float) -> ReadFile | Refusal | str:
        """The outcome of the file that was given first, or how the reader failed over it."""
        try:
            if not self._ours.poll(timeout_seconds):
                return f"reading took longer than {timeout_seconds:g} s"
            outcome: ReadFile | Refusal = self._ours.recv()
        except (EOFError, ConnectionResetError):
            return "the decoder died of it"
        return outcome


def _serve(connection: Connection, settings: MediaSettings, read: Read) -> None:
    import torch

    torch.set_num_threads(1)
    connection.send("begun")
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(path, settings, read))
