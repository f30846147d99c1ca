"""A clip's audio track, packet by packet: how much of it decodes, its gaps, and the waveform."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from r1omni.media.containers import (
    COMPLETE,
    UnreadableMedia,
    moving_pictures,
    refuse_unknown_codec,
)
from r1omni.media.inputs import Floats

_SKIPPED_PIECES: Final = 2  # frames that a codec may drop at the start
_RESAMPLED_SAMPLES: Final = 16384  # per call, because PyAV's cost is per frame
_GAP_SECONDS: Final = 0.04  # shorter gaps between timestamps are rounding, not silence
SILENCE: Final = 2.0**-16  # half a step of 16 bits: smaller samples are digital silence


@dataclass(frozen=True)
class Sound:
    """A clip's first audio track.

    `waveform`: mono float32 (S,), None without sound or if none was requested. `seconds`: length of
    the whole track, even if the waveform is cut. `digital_silence`: every sample is 0. `n_lost` of
    `n_packets` could not be decoded: silence replaces them.
    """

    waveform: Floats | None
    seconds: float
    digital_silence: bool
    n_packets: int
    n_lost: int

    @property
    def is_present(self) -> bool:
        """Whether anything was decoded, even silence."""
        return self.seconds > 0


NO_SOUND: Final = Sound(None, 0.0, False, 0, 0)


def read_sound(
    path: Path, container: InputContainer, sampling_rate: int, keep: int | None = None
) -> Sound:
    """The first audio track; its waveform is at `sampling_rate` Hz and cut after `keep` samples.

    Raises UnreadableMedia if more than 10 % of it is lost.
    """
    if not container.streams.audio:
        return NO_SOUND
    reader = SoundReader(path, container, sampling_rate, keep)
    for packet in container.demux(container.streams.audio[0]):
        reader.add_packet(packet)
    return reader.finish()


class SoundReader:
    """Decodes the packets of the first audio track in order.

    Silence fills the gap if the sound starts after the picture or jumps ahead. Timestamps that jump
    back, or beyond the end of the file, are ignored. Without a `sampling_rate` packets are only
    counted, and there is no waveform. `listener` receives each decoded frame. The waveform lacks
    its first `skip` samples and ends before sample `keep`.
    """

    def __init__(
        self,
        path: Path,
        container: InputContainer,
        sampling_rate: int | None = None,
        keep: int | None = None,
        listener: Callable[[av.AudioFrame], None] | None = None,
        skip: int = 0,
    ) -> None:
        self._path = path
        self._listener = listener
        self._stream = container.streams.audio[0]
        refuse_unknown_codec(path, self._stream)
        self._mp4 = "mp4" in container.format.name
        self._origin = _picture_start(container)
        self._end = _end(container)
        self._waveform = None if sampling_rate is None else _Waveform(sampling_rate, keep, skip)
        self._packets = self._lost = self._pieces = self._samples = 0
        self._seconds = self._lost_seconds = 0.0
        self._silent = True
        self._first_loss = ""

    def add_packet(self, packet: "av.Packet[Any]") -> None:
        """Decode a packet, or count it as lost."""
        self._packets += packet.size > 0
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except FFmpegError as error:
            self._count_loss(packet, error)
            return
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            self._add_frame(frame)

    def finish(self) -> Sound:
        """The audio track. Raises UnreadableMedia if more than 10 % of it is lost or missing."""
        decoded = self._packets - self._lost
        if decoded < COMPLETE * self._packets:
            raise UnreadableMedia(
                f"{self._path}: only {decoded} of {self._packets} packets of sound decode "
                f"({self._first_loss})"
            )
        if not self._samples:
            return NO_SOUND
        self._refuse_cut_short()
        waveform = None if self._waveform is None else self._waveform.finish()
        return Sound(waveform, self._seconds, self._silent, self._packets, self._lost)

    def _count_loss(self, packet: "av.Packet[Any]", error: FFmpegError) -> None:
        self._lost += packet.size > 0
        self._lost_seconds += float((packet.duration or 0) * (packet.time_base or 0))
        stamp = packet.pts if packet.pts is not None else packet.dts
        when = "" if stamp is None else f" at {float(stamp * packet.time_base):.1f} s"
        reason = error.strerror or str(error)
        if reason.startswith("Error number"):  # a decoder's own code, for which FFmpeg has no text
            reason = "damaged data"
        self._first_loss = self._first_loss or (
            f"stream {self._stream.index}, the first failure{when}: {reason}"
        )

    def _add_frame(self, frame: av.AudioFrame) -> None:
        gap = self._gap(frame)
        self._pieces += 1
        self._samples += frame.samples
        self._seconds += gap + frame.samples / frame.sample_rate
        self._silent = self._silent and _is_silent(frame)
        if self._listener is not None:
            self._listener(frame)
        if self._waveform is not None:
            if gap:
                self._waveform.add_silence(round(gap * frame.sample_rate), frame)
            self._waveform.add(frame)

    def _gap(self, frame: av.AudioFrame) -> float:
        """The seconds of silence before the frame."""
        if (at := frame.time) is None:
            return 0.0
        if self._origin is None or (at < self._origin and not self._samples):
            self._origin = at
        gap = at - self._origin - self._seconds
        return gap if gap > _GAP_SECONDS and at <= self._end else 0.0

    def _refuse_cut_short(self) -> None:
        """Raise UnreadableMedia if more than 10 % of the announced sound is missing.

        The headers of mp4 and mov count audio frames or, for a codec without frames, samples.
        """
        announced = self._stream.frames if self._mp4 else 0
        if not announced:
            return
        rate, duration = self._stream.sample_rate, self._stream.duration or 0
        if duration * (self._stream.time_base or 0) * rate < 2 * announced:
            pieces, unit = self._samples + round(self._lost_seconds * rate), "samples"
        else:
            pieces, unit = self._pieces + self._lost + _SKIPPED_PIECES, "pieces"
        if pieces < COMPLETE * announced:
            there = self._samples if unit == "samples" else self._pieces
            raise UnreadableMedia(
                f"{self._path}: is cut short: {there} of the {announced} {unit} of sound that its "
                "header announces"
            )


class _Waveform:
    """One mono waveform from audio frames, whose sampling rate may change."""

    def __init__(self, sampling_rate: int, keep: int | None, skip: int = 0) -> None:
        self._rate, self._keep, self._skip = sampling_rate, keep, skip
        self._pieces: list[Floats] = []
        self._n = 0
        self._format: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def add(self, frame: av.AudioFrame) -> None:
        if self._keep is not None and self._n >= self._keep:
            return
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if frame_format != self._format:
            self._flush()
            self._format = frame_format
            self._resampler = av.AudioResampler(
                format="flt", layout="mono", rate=self._rate, frame_size=_RESAMPLED_SAMPLES
            )
        assert self._resampler is not None
        frame.pts = None  # the resampler refuses jumping timestamps; gaps are already filled
        self._put(self._resampler.resample(frame))

    def add_silence(self, n_samples: int, like: av.AudioFrame) -> None:
        """Append `n_samples` of silence in the format of the frame `like`."""
        zero = b"\x80" if like.format.name.startswith("u8") else b"\0"
        while n_samples and (self._keep is None or self._n < self._keep):
            part = min(n_samples, like.sample_rate)
            silence = av.AudioFrame(like.format.name, like.layout.name, part)
            silence.sample_rate = like.sample_rate
            for plane in silence.planes:
                plane.update(zero * plane.buffer_size)
            self.add(silence)
            n_samples -= part

    def finish(self) -> Floats:
        self._flush()
        waveform = np.concatenate(self._pieces or [np.zeros(0, dtype=np.float32)])
        return waveform if self._keep is None else waveform[: max(0, self._keep - self._skip)]

    def _flush(self) -> None:
        if self._resampler is not None:
            self._put(self._resampler.resample(None))

    def _put(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            skipped = max(0, self._skip - self._n)
            self._n += frame.samples
            if skipped < frame.samples:
                samples = frame.to_ndarray().reshape(-1).astype(np.float32)
                self._pieces.append(samples[skipped:])


def _is_silent(frame: av.AudioFrame) -> bool:
    samples = frame.to_ndarray()
    if samples.dtype.kind == "f":
        return bool(np.abs(samples).max(initial=0) < SILENCE)
    return bool((samples == (128 if samples.dtype == np.uint8 else 0)).all())


def _picture_start(container: InputContainer) -> float | None:
    video = next(iter(moving_pictures(container)), None)
    if video is None or video.start_time is None or video.time_base is None:
        return None
    return float(video.start_time * video.time_base)


def _end(container: InputContainer) -> float:
    """The file's end plus one second; -inf if the file does not give a duration."""
    if container.duration is None:
        return float("-inf")
    return ((container.start_time or 0) + container.duration) / av.time_base + 1.0
