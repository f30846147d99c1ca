"""Files -> what they hold and the hash of their bytes, read in processes that may hang or die."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from r1omni.corpora.ingestion.prints import Sketch
from r1omni.limits import Limits
from r1omni.media import Segment, Source, UnreadableMedia, file_of, probe, probe_segment
from r1omni.media.pool import Undecoded, read_each


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


Job = tuple[int, Source]
Probed = tuple[int, Finding | Unreadable]
Probe = Callable[[Iterable[Job]], Iterator[Probed]]


def probe_clips(jobs: Iterable[Job], *, workers: int, limits: Limits) -> Iterator[Probed]:
    """Each file's number and what the file holds, in order, from `workers` processes (0: per core).

    A file that takes more than `limits`, or ends its process, is Unreadable. Raises RuntimeError if
    no process can be started.
    """
    numbers: deque[int] = deque()

    def sources() -> Iterator[Source]:
        for number, source in jobs:
            numbers.append(number)
            yield source

    read = partial(inspect, max_pixels=limits.max_pixels)
    preload = (__name__,)  # torch is not needed
    found = read_each(sources(), read, workers=workers, limits=limits, preload=preload)
    with closing(found) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Undecoded):
                yield numbers.popleft(), Unreadable(outcome.reason)
            else:
                yield numbers.popleft(), outcome


def probe_chunk(jobs: Sequence[Job], *, workers: int, limits: Limits) -> list[Probed]:
    """`probe_clips` of a few files, at once: a task that another machine can do."""
    return list(probe_clips(jobs, workers=workers, limits=limits))


def inspect(source: Source, max_pixels: int | None = None) -> Finding | Unreadable:
    """What a file or a segment of it holds, or why it is unreadable."""
    try:
        with file_of(source).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        sketch = Sketch()
        if isinstance(source, Segment):
            part = f"{sha256} {source.start} {source.end}"
            sha256 = hashlib.sha256(part.encode()).hexdigest()  # other segments are other clips
            found = probe_segment(source, max_pixels, sketch)
        else:
            found = probe(source, max_pixels, sketch)
    except (UnreadableMedia, OSError) as error:
        return Unreadable(str(error))
    sound_print, picture_print = sketch.prints()
    return Finding(
        duration=float(found.duration),
        fps=float(found.fps),
        n_frames=int(found.n_frames),
        has_audio=bool(found.has_audio),
        sha256=sha256,
        audio_duration=round(found.sound.seconds, 6),
        digital_silence=found.sound.digital_silence,
        lost_packets=found.sound.n_lost,
        sound_print=sound_print,
        picture_print=picture_print,
    )
