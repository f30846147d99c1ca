"""A clip's sampled frames: decord's, or PyAV's where decord has none to hand out."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import decord
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError
from decord import DECORDError

from r1omni.limits import memory_left
from r1omni.media.containers import (
    COMPLETE,
    TOO_LARGE,
    UnreadableMedia,
    open_media,
    picture_stream,
)
from r1omni.media.inputs import Frames, Sampling

decord.logging.set_level(decord.logging.QUIET)

Indices = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
Convert = Callable[[Frames], npt.NDArray[Any]]
ONE_COLOUR: Final = "is damaged: frames of one colour for pictures"
DECORD_PIXELS: Final = 1280 * 720  # larger frames take decord up to three times PyAV's memory


@dataclass(frozen=True)
class Header:
    """What a file says of its video: frames (0: it does not say) and their size."""

    n_frames: int
    width: int
    height: int


@dataclass(frozen=True)
class Wanted:
    """Which frames are asked for, and how large they may be (None: as they come)."""

    num_frames: int
    sampling: Sampling = "index"
    max_pixels: int | None = None

    def places(self, starts: Times, end: float) -> Indices:
        """The frames to take of those that are shown from `starts` on, the last until `end`."""
        if self.sampling == "index":
            return sample_frame_indices(len(starts), self.num_frames)
        return sample_frame_times(starts, end, self.num_frames)


def sample_frame_indices(n_frames: int, num_frames: int) -> Indices:
    """The midpoints of `num_frames` equal segments of [0, n_frames - 1], rounded, halves upwards.

    A clip with fewer frames than are asked for repeats some (HumanOmni's sampling, after
    VideoLLaMA 2, arXiv 2406.07476).
    """
    midpoints = (np.arange(num_frames) + 0.5) * (n_frames - 1) / num_frames
    return np.round(midpoints + 1e-6).astype(np.int64)


def sample_frame_times(starts: Times, end: float, num_frames: int) -> Indices:
    """The frames on the screen at the midpoints of `num_frames` equal segments of the clip's time.

    `starts`: when each frame is shown first, in seconds; `end`: when the last one is gone.
    """
    first = starts[0]
    times = first + (np.arange(num_frames) + 0.5) * (end - first) / num_frames
    indices: Indices = np.maximum(np.searchsorted(starts, times + 1e-6, side="right") - 1, 0)
    return indices


def read_pictures(
    path: Path, header: Header, wanted: Wanted, convert: Convert = np.asarray
) -> npt.NDArray[Any]:
    """The sampled frames, converted by `convert`, large ones one by one: (F, H, W, 3) -> (F, ...).

    Raises UnreadableMedia where much of the video is missing or, where decord does not read it,
    patched up by the decoder.
    """
    if header.width * header.height > DECORD_PIXELS:
        return read_through(path, header, wanted, convert)[0]
    try:
        video = open_by_decord(path, header)
        times = video.get_frame_timestamp(range(len(video)))  # (F, 2)
        unique, places = np.unique(wanted.places(times[:, 0], times[-1, 1]), return_inverse=True)
        return convert(video.get_batch(unique).asnumpy())[places]
    except DECORDError:
        return read_through(path, header, wanted, convert)[0]


def open_by_decord(path: Path, header: Header) -> Any:
    """decord's reader of the file. Raises UnreadableMedia where much of the video is missing."""
    name = os.path.abspath(path)  # noqa: PTH100
    video = decord.VideoReader(name, ctx=decord.cpu(0), num_threads=1)
    refuse_missing_frames(path, len(video), header)
    return video


def refuse_missing_frames(path: Path, n_frames: int, header: Header) -> None:
    """Raise UnreadableMedia where much of the video that the header announces is not there."""
    if n_frames == 0:
        _refuse_for_memory(path, header)
        raise UnreadableMedia(f"{path}: its video has no frames")
    if n_frames < COMPLETE * header.n_frames:
        _refuse_for_memory(path, header)
        raise UnreadableMedia(
            f"{path}: is cut short: {n_frames} of the {header.n_frames} frames that its header "
            "announces"
        )


def refuse_damaged(path: Path, good: int, watched: int, header: Header) -> None:
    """Raise UnreadableMedia where too few of the watched frames decode well."""
    if good < COMPLETE * watched:
        _refuse_for_memory(path, header)
        raise UnreadableMedia(f"{path}: only {good} of {watched} frames decode well")


def _refuse_for_memory(path: Path, header: Header) -> None:
    """Raise UnreadableMedia where there is no room for four frames: FFmpeg then gives none."""
    left = memory_left()
    if left is not None and left < 6 * header.width * header.height:
        raise UnreadableMedia(f"{path}: {TOO_LARGE}")


def decode_packet(packet: "av.Packet[Any]") -> list[av.VideoFrame] | None:
    """The frames of a packet of video; None where it cannot be decoded."""
    try:
        return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
    except MemoryError:
        raise
    except FFmpegError:
        return None


def read_through(
    path: Path, header: Header, wanted: Wanted, convert: Convert
) -> tuple[npt.NDArray[Any], int]:
    """The sampled frames of what decord is not asked for, and how many frames there are.

    Which frames are wanted is told by the packets' time stamps, before anything is decoded; where
    there are not as many packets as frames, the video is played again. Raises UnreadableMedia as
    `read_pictures` does.
    """
    starts, end = _packet_times(path, wanted.max_pixels)
    while True:
        chosen, places = np.unique(wanted.places(starts, end), return_inverse=True)
        taken = _Taken(set(chosen.tolist()), convert)
        with open_media(path, wanted.max_pixels) as container:
            taken.play(picture_stream(path, container), container)
        refuse_missing_frames(path, taken.n_frames, header)
        refuse_damaged(path, taken.n_frames - taken.n_damaged, taken.n_frames, header)
        if taken.n_frames == len(starts):
            break
        starts, end = taken.times(starts[0], end), max(end, float(starts[0]))
    if taken.n_damaged and taken.one_colour:
        raise UnreadableMedia(f"{path}: {ONE_COLOUR}")
    if len(taken.pictures) != len(chosen) or len(taken.sizes) > 1:
        raise UnreadableMedia(f"{path}: its frames come and go, or change their size")
    return np.concatenate(taken.pictures)[places], taken.n_frames


class _Taken:
    """A video played once: the `chosen` frames, converted, and what is known of all."""

    def __init__(self, chosen: set[int], convert: Convert) -> None:
        self._chosen, self._convert = chosen, convert
        self.pictures: list[npt.NDArray[Any]] = []
        self.sizes: set[tuple[int, int]] = set()
        self.one_colour = False
        self.n_frames = self.n_damaged = 0
        self._times: list[float | None] = []

    def play(self, video: av.VideoStream, container: InputContainer) -> None:
        """Take what the stream `video` shows; a packet that cannot be decoded is damaged."""
        video.thread_type = "NONE"  # so that damage is seen
        for packet in container.demux(video):
            frames = decode_packet(packet)
            self.n_damaged += frames is None
            for frame in frames or ():
                if self.n_frames in self._chosen:
                    self._take(frame)
                self.n_frames += 1
                self.n_damaged += frame.is_corrupt
                self._times.append(frame.time)

    def times(self, first: float, end: float) -> Times:
        """When each frame is shown first: evenly until `end` where some do not say."""
        known = [time for time in self._times if time is not None]
        if len(known) < len(self._times):
            return np.linspace(first, end, self.n_frames, endpoint=False)
        return np.maximum.accumulate(np.array(known, dtype=np.float64))

    def _take(self, frame: av.VideoFrame) -> None:
        picture = upright(frame)
        self.sizes.add((frame.width, frame.height))
        self.one_colour = self.one_colour or np.ptp(picture) == 0
        self.pictures.append(self._convert(picture[None]))


def _packet_times(path: Path, max_pixels: int | None) -> tuple[Times, float]:
    """When each packet is shown first and the last one ends, in seconds, without decoding any."""
    with open_media(path, max_pixels) as container:
        video = picture_stream(path, container)
        base = float(video.time_base or 1)
        packets = [packet for packet in container.demux(video) if packet.size]
        stamps = [p.pts if p.pts is not None else p.dts for p in packets]
        shown = [p.duration or 0 for p in packets]
    known = [stamp for stamp in stamps if stamp is not None]
    if not known or len(known) < len(stamps):  # then they are shown evenly
        return np.arange(max(1, len(stamps)), dtype=np.float64), float(max(1, len(stamps)))
    starts = np.sort(np.array(known, dtype=np.float64)) * base
    last = int(np.argmax(known))
    return starts, float(known[last] + (shown[last] or 1)) * base


def upright(frame: av.VideoFrame) -> Frames:
    """The frame as players show it, turned as the file says: uint8 (H, W, 3)."""
    turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(turned)
