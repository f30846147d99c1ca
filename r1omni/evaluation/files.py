"""Any media file as the towers take it, and what has to be said about it.

The preprocessing is media.py's, the same as in training. What training never meets is read here:
sound without a picture, and the containers that decord cannot index (GIF, MPEG-TS).
"""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from r1omni.media import (
    COMPLETE,
    Floats,
    Frames,
    Media,
    MediaSettings,
    TowerInputs,
    UnindexedVideo,
    UnreadableMedia,
    decode,
    explained,
    frames_to_pixels,
    probe,
    read_waveform,
    sample_frame_indices,
    waveform_to_mel,
)

NO_AUDIO: Final = "no audio: the model heard silence"
NO_VIDEO: Final = "no video: the model saw black frames"

# what is taken from a folder; a file that is named itself is always tried
_VIDEO: Final = "3gp avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
_AUDIO: Final = "aac aif aiff flac m4a mka mp3 oga ogg opus wav wma"
SUFFIXES: Final = frozenset(f".{name}" for name in f"{_VIDEO} {_AUDIO}".split())


@dataclass(frozen=True)
class Refusal:
    """What was asked about and not answered, and why."""

    name: str
    reason: str

    def as_text(self) -> str:
        """The refusal on one line for people."""
        return f"{self.name}: refused: {self.reason}"

    def as_json(self) -> str:
        """The refusal as one line of JSON."""
        return json.dumps({"file": self.name, "refused": self.reason}, ensure_ascii=False)


@dataclass(frozen=True)
class ReadFile:
    """A file as the towers take it; `notes` say what was missing, cut or repeated."""

    path: Path
    inputs: TowerInputs
    notes: tuple[str, ...]


def find_files(names: Iterable[str]) -> Iterator[Path | Refusal]:
    """The files that names, folders and glob patterns stand for, each once, in their order.

    A folder stands for the media files anywhere below it, hidden ones left out.
    """
    seen: set[Path] = set()
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if _is_media(p.relative_to(path), p))
            missing = "a folder without a video or audio file"
        elif path.exists() or not glob.has_magic(name):
            found, missing = [path], ""
        else:
            found = sorted(p for p in _expanded(name) if p.is_file())
            missing = "no file matches"
        if not found:
            yield Refusal(name, missing)
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def read_file(path: Path, settings: MediaSettings) -> ReadFile:
    """One file, preprocessed as in training. Raises UnreadableMedia, naming file and reason."""
    if not path.is_file():
        raise UnreadableMedia(f"{path}: no such file")
    notes = []
    if _has_picture(path):
        media = _decode(path, settings)
        if len(media.frames) == 0:
            raise UnreadableMedia(f"{path}: its video has no frames")
        if (media.frames == media.frames[:1]).all():
            notes.append("all sampled frames are the same picture")
    else:
        side = settings.image_size
        black = np.zeros((settings.num_frames, side, side, 3), dtype=np.uint8)
        media = Media(black, _read_sound(path, settings.sampling_rate))
        notes.append(NO_VIDEO)
    if media.waveform is None:
        notes.append(NO_AUDIO)
    else:
        heard = settings.n_samples / settings.sampling_rate
        seconds = len(media.waveform) / settings.sampling_rate
        if len(media.waveform) > settings.n_samples:
            notes.append(f"cut: the model heard the first {heard:g} of {seconds:.1f} s of sound")
    inputs = TowerInputs(
        frames_to_pixels(media.frames, settings),
        waveform_to_mel(media.waveform, settings),
        media.waveform is not None,
    )
    return ReadFile(path, inputs, tuple(notes))


def _expanded(pattern: str) -> Iterator[Path]:
    # pathlib's glob takes no absolute pattern
    return map(Path, glob.iglob(pattern, recursive=True))  # noqa: PTH207


def _is_media(inside: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _open(path: Path) -> InputContainer:
    # an absolute name, lest ffmpeg takes "a:b.mp4" for a protocol
    return av.open(os.path.abspath(path))  # noqa: PTH100


def _has_picture(path: Path) -> bool:
    """Whether there is a video; an album's cover is none. Raises UnreadableMedia for no media."""
    with explained(path), _open(path) as container:
        pictures = _moving_pictures(container)
        if not pictures and not container.streams.audio:
            raise UnreadableMedia(f"{path}: has neither video nor audio")
        return bool(pictures)


def _moving_pictures(container: InputContainer) -> Sequence[av.VideoStream]:
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _decode(path: Path, settings: MediaSettings) -> Media:
    """As training decodes, and as strictly as ingestion probes.

    What decord cannot open or seek in is read through from its start instead, as strictly.
    """
    try:
        probe(path)
        return decode(path, settings.num_frames, settings.sampling_rate)
    except UnindexedVideo as refused:
        try:
            frames = _read_through(path, settings.num_frames)
        except UnreadableMedia:
            raise refused from None
        return Media(frames, _read_sound(path, settings.sampling_rate))


def _read_through(path: Path, num_frames: int) -> Frames:
    """The sampled frames of a video without an index: once through to count, once to take.

    Raises UnreadableMedia where much of it is missing or patched up, as media.probe does.
    """
    n_frames = n_damaged = 0
    with explained(path), _open(path) as container:
        for frame in _played(container):
            n_frames += 1
            n_damaged += frame.is_corrupt
        announced = _moving_pictures(container)[0].frames
    n_sound = n_frames - n_damaged
    if n_frames == 0 or n_sound < COMPLETE * max(n_frames, announced):
        raise UnreadableMedia(f"{path}: only {n_sound} of {n_frames} frames decode well")
    indices = sample_frame_indices(n_frames, num_frames).tolist()
    wanted = set(indices)
    with explained(path), _open(path) as container:
        numbered = enumerate(_played(container))
        taken = {i: f.to_ndarray(format="rgb24") for i, f in numbered if i in wanted}
    if set(taken) != wanted or len({picture.shape for picture in taken.values()}) > 1:
        raise UnreadableMedia(f"{path}: its frames come and go, or change their size")
    frames: Frames = np.stack([taken[i] for i in indices])
    if n_damaged and np.ptp(frames, axis=(1, 2, 3)).min() == 0:
        raise UnreadableMedia(f"{path}: is damaged: frames of one colour for pictures")
    return frames


def _played(container: InputContainer) -> Iterator[av.VideoFrame]:
    video = _moving_pictures(container)[0]
    video.thread_type = "NONE"  # so that damage is seen as media.probe sees it
    return container.decode(video)


def _read_sound(path: Path, sampling_rate: int) -> Floats | None:
    """The first audio track as media.decode reads it: mono float32 (S,); None without sound."""
    with explained(path), _open(path) as container:
        return read_waveform(path, container, sampling_rate)
