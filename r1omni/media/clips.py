"""Whole clip files: probed by ingestion, decoded for the towers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import av
import numpy as np
from av.container import InputContainer
from decord import DECORDError

from r1omni.media.containers import (
    UnreadableMedia,
    moving_pictures,
    open_media,
    picture_stream,
    translate_decoder_errors,
)
from r1omni.media.inputs import (
    Floats,
    Frames,
    Preparation,
    TowerInputs,
)
from r1omni.media.pictures import (
    DECORD_PIXELS,
    ONE_COLOUR,
    FrameRequest,
    Header,
    decode_packet,
    open_by_decord,
    read_by_pyav,
    read_pictures,
    refuse_damaged,
    refuse_missing_frames,
    sample_frame_indices,
)
from r1omni.media.sound import NO_SOUND, Sound, SoundReader, read_sound

_EXAMINED_FRAMES: Final = 300  # at most, decoded in order by a probe: whole clips, not films
_PROBED_FRAMES: Final = 8  # read as `decode` reads them; of an undamaged clip only the first
StreamFormat = tuple[str, str, str, int, int]
_decord_formats: set[StreamFormat] = set()  # formats of which decord has returned a frame


@dataclass(frozen=True)
class Media:
    """A decoded clip: `frames` uint8 (F, H, W, 3); `waveform` float32 (S,), None without audio."""

    frames: Frames
    waveform: Floats | None


@dataclass(frozen=True)
class ReadClip:
    """The towers' inputs of a clip, and the facts about its audio track."""

    inputs: TowerInputs
    sound: Sound


@dataclass(frozen=True)
class Probe:
    """Properties of a clip file: `duration` in seconds by its timestamps, mean `fps`, sound."""

    duration: float
    fps: float
    n_frames: int
    sound: Sound

    @property
    def has_audio(self) -> bool:
        """Whether there is an audio track, even of digital silence."""
        return self.sound.is_present


class Observer(Protocol):
    """Receives a clip's frames while it is probed: all audio frames, the first video frames."""

    def hear(self, frame: av.AudioFrame) -> None: ...
    def see(self, frame: av.VideoFrame) -> None: ...


def probe(path: Path, max_pixels: int | None = None, observer: Observer | None = None) -> Probe:
    """The properties of a clip file; decodes all its audio and its first frames.

    Raises UnreadableMedia whenever `decode` would (for example, a truncated download with a
    complete index), for a video of mostly concealed frames, and for frames above `max_pixels`.
    If PyAV decodes a clip without damage, decord is tried once per process and format (container,
    codec, size): that costs as much as the rest, and its answer holds for every clip of the format.
    """
    with translate_decoder_errors(path):
        with open_media(path, max_pixels) as container:
            played = _Playback(path, container, observer)
            header, stream_format = _header(path, container), _stream_format(path, container)
        n_frames = _check_pictures(path, header, stream_format, played, max_pixels)
    duration = played.seconds or n_frames / played.rate
    if not (math.isfinite(duration) and duration > 0):
        raise UnreadableMedia(f"{path}: its duration is {duration} s")
    return Probe(duration, n_frames / duration, n_frames, played.sound)


def decode(
    path: Path, num_frames: int, sampling_rate: int = 16000, max_pixels: int | None = None
) -> Media:
    """`num_frames` frames and the whole audio of a clip, mono at `sampling_rate` Hz.

    Raises UnreadableMedia for a file that is missing, empty or not a video, or if more than 10 % of
    its video or audio does not decode: nothing is replaced by black frames. A clip without an audio
    track is readable: its waveform is None.
    """
    with translate_decoder_errors(path):
        with open_media(path, max_pixels) as container:
            header = _header(path, container)
            sound = read_sound(path, container, sampling_rate)
        frames, _ = read_pictures(path, header, FrameRequest(num_frames, max_pixels=max_pixels))
    return Media(frames, sound.waveform)


def has_picture(path: Path, max_pixels: int | None = None) -> bool:
    """Whether the file has a video stream other than cover art. Raises UnreadableMedia."""
    with translate_decoder_errors(path), open_media(path, max_pixels) as container:
        pictures = moving_pictures(container)
        if not pictures and not container.streams.audio:
            raise UnreadableMedia(f"{path}: has neither video nor audio")
        return bool(pictures)


def preprocess(path: Path, preparation: Preparation, max_pixels: int | None = None) -> TowerInputs:
    """The towers' inputs of a clip file. Raises UnreadableMedia as `decode` does."""
    return read_clip(path, preparation, max_pixels).inputs


def read_clip(path: Path, preparation: Preparation, max_pixels: int | None = None) -> ReadClip:
    """The towers' inputs of a clip file, and its sound. Raises UnreadableMedia as `decode` does.

    Large frames are converted one by one.
    """
    request = FrameRequest(preparation.num_frames, preparation.sampling, max_pixels)
    with translate_decoder_errors(path):
        with open_media(path, max_pixels) as container:
            header = _header(path, container)
            sound = read_sound(path, container, preparation.sampling_rate, preparation.n_samples)
        pixels, seconds = read_pictures(path, header, request, preparation.frames_to_pixels)
        mel = sound_to_mel(path, sound, preparation)
        inputs = TowerInputs(pixels, mel, sound.is_present, seconds / preparation.num_frames)
    return ReadClip(inputs, sound)


def read_sound_alone(path: Path, preparation: Preparation) -> ReadClip:
    """The towers' inputs of an audio file, which has no picture. Raises UnreadableMedia."""
    with translate_decoder_errors(path), open_media(path) as container:
        sound = read_sound(path, container, preparation.sampling_rate, preparation.n_samples)
    pixels = preparation.without_picture()
    inputs = TowerInputs(pixels, sound_to_mel(path, sound, preparation), sound.is_present)
    return ReadClip(inputs, sound)


def sound_to_mel(path: Path, sound: Sound, preparation: Preparation) -> Floats:
    """The log-mel of a clip's sound (M, T). Raises UnreadableMedia if it is non-finite."""
    mel = preparation.waveform_to_mel(sound.waveform)
    if not np.isfinite(mel).all():
        raise UnreadableMedia(f"{path}: its sound holds non-finite or absurdly large samples")
    return mel


class _Playback:
    """One pass over a container: decodes all audio and the first frames, reads every timestamp.

    A video decoder conceals missing data by repeated or smeared frames. `damaged` counts those, and
    the packets that cannot be decoded.
    """

    def __init__(
        self, path: Path, container: InputContainer, observer: Observer | None = None
    ) -> None:
        video = picture_stream(path, container)
        audio = next(iter(container.streams.audio), None)
        hear = None if observer is None else observer.hear
        reader = None if audio is None else SoundReader(path, container, listener=hear)
        video.thread_type = "NONE"  # the pool's processes already use every core
        self.examined = self.damaged = 0
        sizes = set()
        self.rate = float(video.average_rate or 0) or math.nan
        clock = _Clock(float(video.time_base or 0))
        for packet in container.demux([video] if audio is None else [video, audio]):
            if packet.stream is not video:
                assert reader is not None
                reader.add_packet(packet)
                continue
            clock.see(packet)
            if self.examined < _EXAMINED_FRAMES:
                frames = decode_packet(packet)
                self.examined += 1 if frames is None else len(frames)
                self.damaged += 1 if frames is None else sum(f.is_corrupt for f in frames)
                for frame in frames or ():
                    sizes.add((frame.width, frame.height))
                    if observer is not None:
                        observer.see(frame)
        self.is_whole = not self.damaged and self.examined < _EXAMINED_FRAMES and len(sizes) == 1
        self.seconds = clock.seconds()
        self.sound = NO_SOUND if reader is None else reader.finish()


class _Clock:
    """A video's start and end, by the timestamps of its packets."""

    def __init__(self, time_base: float) -> None:
        self._time_base = time_base
        self._first, self._last, self._shown, self._n = math.inf, -math.inf, 0, 0

    def see(self, packet: "av.Packet[Any]") -> None:
        """Record a packet's timestamp, if it has one."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.size == 0:
            return
        self._n += 1
        self._first = min(self._first, stamp)
        if stamp > self._last:
            self._last, self._shown = stamp, packet.duration or 0

    def seconds(self) -> float:
        """The video's duration; 0 if its packets have no timestamps."""
        if self._n == 0:
            return 0.0
        spread = self._last - self._first
        shown = self._shown or (spread / (self._n - 1) if self._n > 1 else 0)
        return (spread + shown) * self._time_base


def _check_pictures(
    path: Path,
    header: Header,
    stream_format: StreamFormat,
    played: _Playback,
    max_pixels: int | None,
) -> int:
    """The number of frames. Raises UnreadableMedia if `decode` could not read them."""
    good = played.examined - played.damaged
    if header.width * header.height > DECORD_PIXELS:
        return _check_played(path, header, played, max_pixels)
    try:
        video = open_by_decord(path, header)
        n_frames = len(video)
        examined = min(n_frames, _EXAMINED_FRAMES)
        refuse_damaged(path, good, examined, header)
        in_order = list(video.get_key_indices()[:1]) == [0]
        whole = good == n_frames and in_order
        if not whole or stream_format not in _decord_formats:
            sample = sample_frame_indices(n_frames, _PROBED_FRAMES)
            for i in sample[:1] if whole else sample:
                frame = video.get_batch([i]).asnumpy()
                if good < examined and np.ptp(frame) == 0:
                    raise UnreadableMedia(f"{path}: {ONE_COLOUR}")
            _decord_formats.add(stream_format)
        return n_frames
    except DECORDError:
        return _check_played(path, header, played, max_pixels)


def _check_played(path: Path, header: Header, played: _Playback, max_pixels: int | None) -> int:
    """Like `_check_pictures`, for a clip that `decode` reads by PyAV; decodes a whole one once."""
    if not played.is_whole:
        request = FrameRequest(_PROBED_FRAMES, max_pixels=max_pixels)
        return read_by_pyav(path, header, request, np.asarray)[1]
    refuse_missing_frames(path, played.examined, header)
    return played.examined


def _header(path: Path, container: InputContainer) -> Header:
    video = picture_stream(path, container)
    return Header(video.frames, video.width, video.height)


def _stream_format(path: Path, container: InputContainer) -> StreamFormat:
    """The properties of a clip that decide whether decord can read its frames."""
    video = picture_stream(path, container)
    kind = (video.codec_context.name, video.codec_context.pix_fmt or "")
    return (container.format.name, *kind, video.width, video.height)
