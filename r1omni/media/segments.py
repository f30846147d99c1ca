"""A segment of a media file: its frames and its sound between two times, read by PyAV.

Times are seconds from the file's first picture. Pictures are decoded from the last keyframe before
the segment on, sound from the beginning of the file, so that both are the whole file's, cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from r1omni.media.clips import Observer, Probe, sound_to_mel
from r1omni.media.containers import (
    UnreadableMedia,
    open_media,
    picture_stream,
    translate_decoder_errors,
)
from r1omni.media.inputs import Floats, Preparation, TowerInputs
from r1omni.media.pictures import FrameRequest, Header, decode_packet, refuse_damaged, upright
from r1omni.media.sound import NO_SOUND, SILENCE, Sound, SoundReader

_PROBED_RATE = 16000  # Hz, at which a probe looks for silence


@dataclass(frozen=True)
class Segment:
    """The part of the file at `path` from `start` to `end`, in seconds from its first picture."""

    path: Path
    start: float
    end: float


Source = Path | Segment


def file_of(source: Source) -> Path:
    """The file that a source is read from."""
    return source.path if isinstance(source, Segment) else source


def read_segment(
    segment: Segment, preparation: Preparation, max_pixels: int | None = None
) -> TowerInputs:
    """A segment as the towers take it. Raises UnreadableMedia as `read_clip` does."""
    path = segment.path
    request = FrameRequest(preparation.num_frames, preparation.sampling, max_pixels)
    heard = min(segment.end, segment.start + preparation.audio_seconds)
    with translate_decoder_errors(path):
        starts = np.array(_times(segment, max_pixels))
        chosen, places = np.unique(request.indices(starts, segment.end), return_inverse=True)
        pictures: list[Floats] = []
        with open_media(path, max_pixels) as container:
            for place, frame in enumerate(filter(None, _frames(segment, container))):
                if place in chosen:
                    pictures.append(preparation.frames_to_pixels(upright(frame)[None]))
        with open_media(path, max_pixels) as container:
            sound = _sound(segment, container, preparation.sampling_rate, heard)
        mel = sound_to_mel(path, sound, preparation)
    seconds = float(segment.end - starts[0]) / preparation.num_frames
    return TowerInputs(np.concatenate(pictures)[places], mel, sound.is_present, seconds)


def probe_segment(
    segment: Segment, max_pixels: int | None = None, observer: Observer | None = None
) -> Probe:
    """What the segment holds, once all of it has decoded. Raises UnreadableMedia as `probe`."""
    path = segment.path
    with translate_decoder_errors(path):
        times = _times(segment, max_pixels, None if observer is None else observer.see)
        with open_media(path, max_pixels) as container:
            hear = None if observer is None else observer.hear
            sound = _sound(segment, container, _PROBED_RATE, segment.end, hear)
    gap = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else segment.end - times[0]
    duration = min(times[-1] + gap, segment.end) - segment.start
    return Probe(duration, 1 / gap, len(times), sound)


def _times(
    segment: Segment, max_pixels: int | None, see: Callable[[av.VideoFrame], None] | None = None
) -> list[float]:
    """When each frame of the segment is shown first; each is shown to `see`.

    Raises UnreadableMedia where there are none, or many do not decode.
    """
    path, times, damaged = segment.path, [], 0
    with open_media(path, max_pixels) as container:
        video = picture_stream(path, container)
        header, origin = Header(0, video.width, video.height), _origin(video)
        for frame in _frames(segment, container):
            damaged += frame is None or frame.is_corrupt
            if frame is not None:
                times.append(float(frame.time or 0.0) - origin)
                if see is not None:
                    see(frame)
    refuse_damaged(path, len(times) - damaged, len(times), header)
    if not times:
        raise UnreadableMedia(
            f"{path}: shows no picture from {segment.start:g} to {segment.end:g} s"
        )
    return times


def _frames(segment: Segment, container: InputContainer) -> Iterator[av.VideoFrame | None]:
    """The frames that begin within the segment, in their order; None for damaged data."""
    video = picture_stream(segment.path, container)
    video.thread_type = "NONE"  # the processes are the threads, and damage is seen
    base = float(video.time_base or 1)
    first, last = _origin(video) + segment.start, _origin(video) + segment.end
    waiting: list[av.Packet[av.VideoStream]] = []  # from the last keyframe before the segment on
    started = False
    for packet in container.demux(video):
        stamp = packet.pts if packet.pts is not None else packet.dts
        early = not started and stamp is not None and stamp * base <= first
        if early:
            waiting = [packet] if packet.is_keyframe else [*waiting, packet]
            continue
        started = True
        for due in [*waiting, packet]:
            yield from _within(decode_packet(due), first, last)
        waiting = []
        if packet.dts is not None and packet.dts * base >= last:
            yield from _within(video.codec_context.decode(None), first, last)
            return


def _within(
    frames: list[av.VideoFrame] | None, first: float, last: float
) -> Iterator[av.VideoFrame | None]:
    if frames is None:
        yield None
    for frame in frames or ():
        if frame.time is not None and first - 1e-6 <= frame.time < last - 1e-6:
            yield frame


def _sound(
    segment: Segment,
    container: InputContainer,
    rate: int,
    end: float,
    listener: Callable[[av.AudioFrame], None] | None = None,
) -> Sound:
    """The sound from the segment's start to `end`, at `rate` Hz; none where the file's is over."""
    if not container.streams.audio:
        return NO_SOUND
    origin = _origin(picture_stream(segment.path, container))

    def hear(frame: av.AudioFrame) -> None:
        at = None if frame.time is None else frame.time - origin
        if listener is not None and at is not None and segment.start <= at < segment.end:
            listener(frame)

    skip, keep = round(segment.start * rate), round(end * rate)
    reader = SoundReader(segment.path, container, rate, keep, hear, skip)
    for packet in container.demux(container.streams.audio[0]):
        reader.add_packet(packet)
    whole = reader.finish()
    if whole.waveform is None or not len(whole.waveform):
        return NO_SOUND
    silent = bool(np.abs(whole.waveform).max() < SILENCE)
    seconds = len(whole.waveform) / rate
    return Sound(whole.waveform, seconds, silent, whole.n_packets, whole.n_lost)


def _origin(video: av.VideoStream) -> float:
    return float((video.start_time or 0) * (video.time_base or 1))
