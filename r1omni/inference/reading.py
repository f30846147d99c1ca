"""Files read ahead of the model in another process: a decoder that dies or hangs costs one file."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from r1omni.inference.files import ReadFile, Refusal, read_file
from r1omni.limits import Limits
from r1omni.media import Preparation
from r1omni.media.pool import Undecoded, read_each

Read = Callable[..., ReadFile]  # of a path, preparation and max_pixels
_AHEAD: Final = 16  # files that may have been read ahead: what bounds the memory


def read_files(
    paths: Iterable[Path],
    preparation: Preparation,
    limits: Limits,
    read: Read = read_file,
    ahead: int = _AHEAD,
) -> Generator[ReadFile | Refusal, None, None]:
    """Each file or why it is refused, in order: also one that takes more than the limits.

    `ahead` 0: a path is taken from `paths` when its file is asked for. Closing the generator ends
    the process that reads.
    """
    reading = partial(read, preparation=preparation, max_pixels=limits.max_pixels)
    with closing(read_each(paths, reading, workers=1, limits=limits, ahead=ahead)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Undecoded):
                yield Refusal(str(outcome.path), outcome.reason)
            else:
                yield outcome


class FileReader:
    """Reads the files that it is asked for, one at a time, in one process that stays."""

    def __init__(self, preparation: Preparation, limits: Limits, read: Read = read_file) -> None:
        self._path: Path | None = None
        paths = iter(lambda: self._path, None)
        self._outcomes = read_files(paths, preparation, limits, read, ahead=0)

    def read(self, path: Path) -> ReadFile | Refusal:
        """The file, or why it is refused. After a RuntimeError (see `read_each`), close it."""
        self._path = path
        return next(self._outcomes)

    def close(self) -> None:
        """End the process."""
        self._outcomes.close()
