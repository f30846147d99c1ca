"""A clip file read whole: probed by ingestion, decoded for the towers."""

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
    explained,
    moving_pictures,
    open_media,
    picture_stream,
)
from r1omni.media.inputs import (
    Floats,
    Frames,
    MediaSettings,
    TowerInputs,
    frames_to_pixels,
    waveform_to_mel,
)
from r1omni.media.pictures import (
    DECORD_PIXELS,
    ONE_COLOUR,
    Header,
    Wanted,
    decode_packet,
    open_by_decord,
    read_pictures,
    read_through,
    refuse_damaged,
    refuse_missing_frames,
    sample_frame_indices,
)
from r1omni.media.sound import NO_SOUND, Sound, SoundReader, read_sound

_WATCHED_FRAMES: Final = 300  # that a probe decodes one after the other: whole clips, not films
_PROBED_FRAMES: Final = 8  # that are read as `decode` reads them; of a whole clip the first
Form = tuple[str, str, str, int, int]
_handed_out: set[Form] = set()  # forms of clips of which decord has handed out a frame


@dataclass(frozen=True)
class Media:
    """A decoded clip: `frames` uint8 (F, H, W, 3), `waveform` float32 (S,), None without audio."""

    frames: Frames
    waveform: Floats | None


@dataclass(frozen=True)
class ReadClip:
    """A clip as the towers take it, and what is to be known of its sound."""

    inputs: TowerInputs
    sound: Sound


@dataclass(frozen=True)
class Probe:
    """What a clip file holds: `duration` in seconds, by its time stamps, `fps` on average."""

    duration: float
    fps: float
    n_frames: int
    sound: Sound

    @property
    def has_audio(self) -> bool:
        """Whether there is any sound, be it digital silence."""
        return self.sound.is_there


class Observer(Protocol):
    """Is shown the frames of a clip while it is probed: all of its sound, its first pictures."""

    def hear(self, frame: av.AudioFrame) -> None: ...
    def see(self, frame: av.VideoFrame) -> None: ...


def probe(path: Path, max_pixels: int | None = None, observer: Observer | None = None) -> Probe:
    """What the clip file holds, once its audio and its first frames have really decoded.

    Raises UnreadableMedia for whatever `decode` would raise it for, e.g. a truncated download
    whose index is whole; for a video most of whose frames are patched up by the decoder; and for
    frames of more than `max_pixels`. What PyAV plays whole, decord is asked for once a process and
    form (container, codec, size): that costs as much as all the rest, and what it cannot hand out,
    it cannot for any clip of the form.
    """
    with explained(path):
        with open_media(path, max_pixels) as container:
            played = _Played(path, container, observer)
            header, form = _header(path, container), _form(path, container)
        n_frames = _check_pictures(path, header, form, played, max_pixels)
    duration = played.seconds or n_frames / played.rate
    if not (math.isfinite(duration) and duration > 0):
        raise UnreadableMedia(f"{path}: says that it plays for {duration} s")
    return Probe(duration, n_frames / duration, n_frames, played.sound)


def decode(
    path: Path, num_frames: int, sampling_rate: int = 16000, max_pixels: int | None = None
) -> Media:
    """`num_frames` frames and the whole audio of a clip, mono at `sampling_rate` Hz.

    Raises UnreadableMedia for a file that is missing, empty, not a video, or much of whose video
    or audio does not decode: nothing is replaced by black frames. A clip without an audio track is
    readable: its waveform is None.
    """
    with explained(path):
        with open_media(path, max_pixels) as container:
            header = _header(path, container)
            sound = read_sound(path, container, sampling_rate)
        frames = read_pictures(path, header, Wanted(num_frames, max_pixels=max_pixels))
    return Media(frames, sound.waveform)


def has_picture(path: Path, max_pixels: int | None = None) -> bool:
    """Whether there is a video; an album's cover is none. Raises UnreadableMedia for no media."""
    with explained(path), open_media(path, max_pixels) as container:
        pictures = moving_pictures(container)
        if not pictures and not container.streams.audio:
            raise UnreadableMedia(f"{path}: has neither video nor audio")
        return bool(pictures)


def preprocess(path: Path, settings: MediaSettings, max_pixels: int | None = None) -> TowerInputs:
    """A clip file as the towers take it. Raises UnreadableMedia as `decode` does."""
    return read_clip(path, settings, max_pixels).inputs


def read_clip(path: Path, settings: MediaSettings, max_pixels: int | None = None) -> ReadClip:
    """A clip file as the towers take it, frame by frame where frames are large, and its sound.

    Raises UnreadableMedia as `decode` does.
    """
    wanted = Wanted(settings.num_frames, settings.sampling, max_pixels)
    with explained(path):
        with open_media(path, max_pixels) as container:
            header = _header(path, container)
            sound = read_sound(path, container, settings.sampling_rate, settings.n_samples)
        pixels = read_pictures(path, header, wanted, lambda f: frames_to_pixels(f, settings))
        inputs = TowerInputs(pixels, sound_to_mel(path, sound, settings), sound.is_there)
    return ReadClip(inputs, sound)


def read_sound_alone(path: Path, settings: MediaSettings) -> ReadClip:
    """A file of sound as the towers take it, with black frames. Raises UnreadableMedia."""
    side = settings.image_size
    black = np.zeros((settings.num_frames, side, side, 3), dtype=np.uint8)
    with explained(path), open_media(path) as container:
        sound = read_sound(path, container, settings.sampling_rate, settings.n_samples)
    pixels = frames_to_pixels(black, settings)
    return ReadClip(TowerInputs(pixels, sound_to_mel(path, sound, settings), sound.is_there), sound)


def sound_to_mel(path: Path, sound: Sound, settings: MediaSettings) -> Floats:
    """The log-mel of a clip's sound (M, T). Raises UnreadableMedia where it is non-finite."""
    mel = waveform_to_mel(sound.waveform, settings)
    if not np.isfinite(mel).all():
        raise UnreadableMedia(f"{path}: its sound holds non-finite or absurdly large samples")
    return mel


class _Played:
    """A container played once: its first frames decoded, all of its sound, every time stamp.

    A video decoder conceals what is missing by repeating or smearing frames: those do not count as
    decoded well, nor does a packet that gives none.
    """

    def __init__(
        self, path: Path, container: InputContainer, observer: Observer | None = None
    ) -> None:
        video = picture_stream(path, container)
        audio = next(iter(container.streams.audio), None)
        hear = None if observer is None else observer.hear
        reader = None if audio is None else SoundReader(path, container, listener=hear)
        video.thread_type = "NONE"  # the processes are the threads
        self.watched = self.damaged = 0
        sizes = set()
        self.rate = float(video.average_rate or 0) or math.nan
        clock = _Clock(float(video.time_base or 0))
        for packet in container.demux([video] if audio is None else [video, audio]):
            if packet.stream is not video:
                assert reader is not None
                reader.take(packet)
                continue
            clock.see(packet)
            if self.watched < _WATCHED_FRAMES:
                frames = decode_packet(packet)
                self.watched += 1 if frames is None else len(frames)
                self.damaged += 1 if frames is None else sum(f.is_corrupt for f in frames)
                for frame in frames or ():
                    sizes.add((frame.width, frame.height))
                    if observer is not None:
                        observer.see(frame)
        self.is_whole = not self.damaged and self.watched < _WATCHED_FRAMES and len(sizes) == 1
        self.seconds = clock.seconds()
        self.sound = NO_SOUND if reader is None else reader.finish()


class _Clock:
    """From when to when a video is shown, by the time stamps of its packets."""

    def __init__(self, time_base: float) -> None:
        self._time_base = time_base
        self._first, self._last, self._shown, self._n = math.inf, -math.inf, 0, 0

    def see(self, packet: "av.Packet[Any]") -> None:
        """Take a packet's time stamp; one without has none that counts."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.size == 0:
            return
        self._n += 1
        self._first = min(self._first, stamp)
        if stamp > self._last:
            self._last, self._shown = stamp, packet.duration or 0

    def seconds(self) -> float:
        """How long the video is; 0 where its packets do not say."""
        if self._n == 0:
            return 0.0
        spread = self._last - self._first
        shown = self._shown or (spread / (self._n - 1) if self._n > 1 else 0)
        return (spread + shown) * self._time_base


def _check_pictures(
    path: Path, header: Header, form: Form, played: _Played, max_pixels: int | None
) -> int:
    """How many frames there are. Raises UnreadableMedia where `decode` would not read them."""
    good = played.watched - played.damaged
    if header.width * header.height > DECORD_PIXELS:
        return _check_played(path, header, played, max_pixels)
    try:
        video = open_by_decord(path, header)
        n_frames = len(video)
        watched = min(n_frames, _WATCHED_FRAMES)
        refuse_damaged(path, good, watched, header)
        in_order = list(video.get_key_indices()[:1]) == [0]
        whole = good == n_frames and in_order
        if not whole or form not in _handed_out:
            sample = sample_frame_indices(n_frames, _PROBED_FRAMES)
            for i in sample[:1] if whole else sample:
                frame = video.get_batch([i]).asnumpy()
                if good < watched and np.ptp(frame) == 0:
                    raise UnreadableMedia(f"{path}: {ONE_COLOUR}")
            _handed_out.add(form)
        return n_frames
    except DECORDError:
        return _check_played(path, header, played, max_pixels)


def _check_played(path: Path, header: Header, played: _Played, max_pixels: int | None) -> int:
    """As `_check_pictures`, for what `decode` reads by PyAV: it is not played a second time."""
    if not played.is_whole:
        wanted = Wanted(_PROBED_FRAMES, max_pixels=max_pixels)
        return read_through(path, header, wanted, np.asarray)[1]
    refuse_missing_frames(path, played.watched, header)
    return played.watched


def _header(path: Path, container: InputContainer) -> Header:
    video = picture_stream(path, container)
    return Header(video.frames, video.width, video.height)


def _form(path: Path, container: InputContainer) -> Form:
    """What decides whether decord can hand out an open clip's frames."""
    video = picture_stream(path, container)
    kind = (video.codec_context.name, video.codec_context.pix_fmt or "")
    return (container.format.name, *kind, video.width, video.height)
