"""A clip's sampled frames, read by decord, or by PyAV if decord cannot read them."""

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
    """The video's properties in a file's header: number of frames (0: unknown) and their size."""

    n_frames: int
    width: int
    height: int


@dataclass(frozen=True)
class FrameRequest:
    """The number of frames to sample, how, and their greatest size (None: no limit)."""

    num_frames: int
    sampling: Sampling = "index"
    max_pixels: int | None = None

    def indices(self, starts: Times, end: float) -> Indices:
        """The indices of the sampled frames, by all frames' start times and the end of the last."""
        if self.sampling == "index":
            return sample_frame_indices(len(starts), self.num_frames)
        return sample_frame_times(starts, end, self.num_frames)


def sample_frame_indices(n_frames: int, num_frames: int) -> Indices:
    """The midpoints of `num_frames` equal segments of [0, n_frames - 1], rounded, halves upwards.

    A clip with fewer frames repeats some (HumanOmni's sampling, after VideoLLaMA 2,
    arXiv 2406.07476).
    """
    midpoints = (np.arange(num_frames) + 0.5) * (n_frames - 1) / num_frames
    return np.round(midpoints + 1e-6).astype(np.int64)


def sample_frame_times(starts: Times, end: float, num_frames: int) -> Indices:
    """The frames shown at the midpoints of `num_frames` equal segments of the clip's time.

    `starts`: the second from which each frame is shown; `end`: the end of the last one.
    """
    first = starts[0]
    times = first + (np.arange(num_frames) + 0.5) * (end - first) / num_frames
    indices: Indices = np.maximum(np.searchsorted(starts, times + 1e-6, side="right") - 1, 0)
    return indices


def read_pictures(
    path: Path, header: Header, request: FrameRequest, convert: Convert = np.asarray
) -> tuple[npt.NDArray[Any], float]:
    """The sampled frames and the seconds that the video lasts.

    `convert` makes (F, ...) of frames (F, H, W, 3), of large ones one by one. Raises
    UnreadableMedia if more than 10 % of the video is missing or, if PyAV reads it, damaged.
    """
    if header.width * header.height > DECORD_PIXELS:
        return read_by_pyav(path, header, request, convert)[::2]
    try:
        video = open_by_decord(path, header)
        times = video.get_frame_timestamp(range(len(video)))  # (F, 2)
        unique, inverse = np.unique(request.indices(times[:, 0], times[-1, 1]), return_inverse=True)
        pictures = convert(video.get_batch(unique).asnumpy())[inverse]
        return pictures, float(times[-1, 1] - times[0, 0])
    except DECORDError:
        return read_by_pyav(path, header, request, convert)[::2]


def open_by_decord(path: Path, header: Header) -> Any:
    """decord's reader of the file. Raises UnreadableMedia if too many frames are missing."""
    name = os.path.abspath(path)  # noqa: PTH100
    video = decord.VideoReader(name, ctx=decord.cpu(0), num_threads=1)
    refuse_missing_frames(path, len(video), header)
    return video


def refuse_missing_frames(path: Path, n_frames: int, header: Header) -> None:
    """Raise UnreadableMedia if there are too few of the frames that the header announces."""
    if n_frames == 0:
        _refuse_for_memory(path, header)
        raise UnreadableMedia(f"{path}: its video has no frames")
    if n_frames < COMPLETE * header.n_frames:
        _refuse_for_memory(path, header)
        raise UnreadableMedia(
            f"{path}: is cut short: {n_frames} of the {header.n_frames} frames that its header "
            "announces"
        )


def refuse_damaged(path: Path, good: int, examined: int, header: Header) -> None:
    """Raise UnreadableMedia if too few of the examined frames decode well."""
    if good < COMPLETE * examined:
        _refuse_for_memory(path, header)
        raise UnreadableMedia(f"{path}: only {good} of {examined} frames decode well")


def _refuse_for_memory(path: Path, header: Header) -> None:
    """Raise UnreadableMedia if memory lacks room for four frames: FFmpeg then returns none."""
    left = memory_left()
    if left is not None and left < 6 * header.width * header.height:
        raise UnreadableMedia(f"{path}: {TOO_LARGE}")


def decode_packet(packet: "av.Packet[Any]") -> list[av.VideoFrame] | None:
    """The frames of a video packet; None if it cannot be decoded."""
    try:
        return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
    except MemoryError:
        raise
    except FFmpegError:
        return None


def read_by_pyav(
    path: Path, header: Header, request: FrameRequest, convert: Convert
) -> tuple[npt.NDArray[Any], int, float]:
    """The sampled frames as PyAV reads them, and the video's number of frames and its seconds.

    The packets' timestamps say which frames to sample, before anything is decoded. If the number
    of packets differs from that of frames, the video is decoded again. Raises UnreadableMedia as
    `read_pictures` does.
    """
    starts, end = _packet_times(path, request.max_pixels)
    while True:
        chosen, inverse = np.unique(request.indices(starts, end), return_inverse=True)
        taken = _SampledFrames(set(chosen.tolist()), convert)
        with open_media(path, request.max_pixels) as container:
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
    return np.concatenate(taken.pictures)[inverse], taken.n_frames, float(end - starts[0])


class _SampledFrames:
    """One pass over a video: the `chosen` frames, converted, and counts over all frames."""

    def __init__(self, chosen: set[int], convert: Convert) -> None:
        self._chosen, self._convert = chosen, convert
        self.pictures: list[npt.NDArray[Any]] = []
        self.sizes: set[tuple[int, int]] = set()
        self.one_colour = False
        self.n_frames = self.n_damaged = 0
        self._times: list[float | None] = []

    def play(self, video: av.VideoStream, container: InputContainer) -> None:
        """Decode the stream `video`; a packet that cannot be decoded counts as damaged."""
        video.thread_type = "NONE"  # with threads FFmpeg does not report damage
        for packet in container.demux(video):
            frames = decode_packet(packet)
            self.n_damaged += frames is None
            for frame in frames or ():
                if self.n_frames in self._chosen:
                    self._convert_frame(frame)
                self.n_frames += 1
                self.n_damaged += frame.is_corrupt
                self._times.append(frame.time)

    def times(self, first: float, end: float) -> Times:
        """The second from which each frame is shown; even steps to `end` if any is unknown."""
        known = [time for time in self._times if time is not None]
        if len(known) < len(self._times):
            return np.linspace(first, end, self.n_frames, endpoint=False)
        return np.maximum.accumulate(np.array(known, dtype=np.float64))

    def _convert_frame(self, frame: av.VideoFrame) -> None:
        picture = upright(frame)
        self.sizes.add((frame.width, frame.height))
        self.one_colour = self.one_colour or np.ptp(picture) == 0
        self.pictures.append(self._convert(picture[None]))


def _packet_times(path: Path, max_pixels: int | None) -> tuple[Times, float]:
    """The start of each packet and the end of the last one, in seconds; decodes nothing."""
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
    """The frame rotated as the file demands and players do: uint8 (H, W, 3)."""
    turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(turned)
