"""Clip file -> frames and waveform -> pixels and log-mel. The only importer of decord.

decord reads the frames (bit-identical to PyAV's, and it seeks exactly); PyAV reads the audio, since
decord's AudioReader leaks and lags by a millisecond. What is defined here serves ingestion, the
feature cache, the processor and `predict` alike, so training and inference see the same tensors.
Shapes: `F` frames, `H` x `W` pixels, `S` audio samples, `M` mel bins, `T` mel frames.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import av
import decord
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError
from decord import DECORDError
from PIL import Image

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

decord.logging.set_level(decord.logging.QUIET)

_WATCHED_FRAMES = 300  # that a probe decodes one after the other: whole clips, not whole films
_PROBED_FRAMES = 8  # that are read as `decode` reads them; of a whole clip the first, once a form
COMPLETE: Final = 0.9  # of the frames that the header announces (0: it doesn't say) must be there
Form = tuple[str, str, str, int, int]
_handed_out: set[Form] = set()  # forms of clips of which decord has handed out a frame
_SKIPPED_SOUND = 2  # pieces that a codec needs to get going
_RESAMPLED_SAMPLES = 16384  # at once; PyAV's cost is per frame
_SOURCE_LINE = re.compile(r"\[[\d:]+\] \S+:\d+: |^\[/.*\]")  # decord's clock and place
_DECODING_ERRORS = (DECORDError, FFmpegError, RuntimeError, OSError, UnicodeError)


class UnreadableMedia(ValueError):
    """A file that is not a clip we can decode; the message names the file and the reason."""


class UnindexedVideo(UnreadableMedia):
    """A file that decord cannot open or seek in, e.g. a GIF; its sound, if any, is whole."""


@dataclass(frozen=True)
class Media:
    """A decoded clip: `frames` uint8 (F, H, W, 3), `waveform` float32 (S,), None without audio."""

    frames: Frames
    waveform: Floats | None


@dataclass(frozen=True)
class Probe:
    """What a clip file holds: `duration` in seconds, `fps` in frames a second."""

    duration: float
    fps: float
    n_frames: int
    has_audio: bool


@dataclass(frozen=True)
class MediaSettings:
    """How a clip becomes the towers' inputs; a checkpoint's processor holds one."""

    num_frames: int
    image_size: int
    aspect_ratio: Literal["pad", "none"]
    sampling_rate: int
    n_samples: int
    n_fft: int
    hop_length: int
    num_mel_bins: int
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # SigLIP's
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TowerInputs:
    """One clip as the towers take it: pixels float32 (F, 3, H, W), mel float32 (M, T)."""

    pixels: Floats
    mel: Floats
    has_audio: bool


def sample_frame_indices(n_frames: int, num_frames: int) -> npt.NDArray[np.int64]:
    """The midpoints of `num_frames` equal segments of [0, n_frames - 1], rounded, halves upwards.

    A clip with fewer frames than are asked for repeats some (HumanOmni's sampling, after
    VideoLLaMA 2, arXiv 2406.07476).
    """
    midpoints = (np.arange(num_frames) + 0.5) * (n_frames - 1) / num_frames
    return np.round(midpoints + 1e-6).astype(np.int64)


def probe(path: Path) -> Probe:
    """What the clip file holds, once its audio and its first frames have really decoded.

    Raises UnreadableMedia for whatever `decode` would raise it for, e.g. a truncated download
    whose index is whole, or frames 16, 24 or 48 pixels wide, whose rows decord cannot hand out;
    and for a video most of whose frames are patched up by the decoder. What PyAV plays whole,
    decord is asked for once a process and form (container, codec, size): that costs as much as all
    the rest, and what it cannot hand out, it cannot for any clip of the form.
    """
    with explained(path):
        with _container(path) as container:
            announced = container.streams.video[0].frames
            n_sound, has_audio = _play(path, container)
            form = _form(container)
        video = _open_video(path, announced)
        n_frames = len(video)
        fps = float(video.get_avg_fps())
        watched = min(n_frames, _WATCHED_FRAMES)
        if n_sound < COMPLETE * watched:
            raise UnreadableMedia(f"{path}: only {n_sound} of {watched} frames decode well")
        in_order = list(video.get_key_indices()[:1]) == [0]
        whole = n_sound == n_frames and in_order
        if not whole or form not in _handed_out:
            sample = sample_frame_indices(n_frames, _PROBED_FRAMES)
            frames = video.get_batch(sample[:1] if whole else sample).asnumpy()
            if n_sound < watched and np.ptp(frames, axis=(1, 2, 3)).min() == 0:
                raise UnreadableMedia(f"{path}: is damaged: frames of one colour for pictures")
            _handed_out.add(form)
    if not (math.isfinite(fps) and fps > 0):
        raise UnreadableMedia(f"{path}: says that it plays {fps} frames a second")
    return Probe(n_frames / fps, fps, n_frames, has_audio)


def decode(path: Path, num_frames: int, sampling_rate: int = 16000) -> Media:
    """`num_frames` frames and the whole audio of a clip, mono at `sampling_rate` Hz.

    Raises UnreadableMedia for a file that is missing, empty, not a video, or whose video or audio
    does not decode: nothing is replaced by black frames or silence. A clip without an audio track
    is readable: its waveform is None.
    """
    with explained(path):
        with _container(path) as container:
            announced = container.streams.video[0].frames
            waveform = read_waveform(path, container, sampling_rate)
        video = _open_video(path, announced)
        frames = video.get_batch(sample_frame_indices(len(video), num_frames)).asnumpy()
    return Media(frames, waveform)


def pad_to_square(frames: Frames, colour: tuple[int, int, int]) -> Frames:
    """The frames in the middle of squares of `colour`: (F, H, W, 3) -> (F, S, S, 3)."""
    n, height, width, _ = frames.shape
    side = max(height, width)
    if height == width:
        return frames
    squares = np.empty((n, side, side, 3), dtype=np.uint8)
    squares[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    squares[:, top : top + height, left : left + width] = frames
    return squares


def frames_to_pixels(frames: Frames, settings: MediaSettings) -> Floats:
    """Frames as SigLIP takes them: uint8 (F, H, W, 3) -> float32 (F, 3, H', W').

    Padded to a square with the mean colour, resized (bicubic), rescaled and normalised: bit for bit
    transformers' SiglipImageProcessorPil, whose import alone would cost every decoding worker five
    seconds.
    """
    if settings.aspect_ratio == "pad":
        red, green, blue = (int(mean * 255) for mean in settings.image_mean)
        frames = pad_to_square(frames, (red, green, blue))
    size = (settings.image_size, settings.image_size)
    resized = np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames]
    )
    # a byte has 256 values, so each channel is a table of 256 floats
    table = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array([settings.image_mean, settings.image_std], dtype=np.float32)
    tables = (table[:, None] - mean) / std  # (256, 3)
    return np.stack([tables[:, c][resized[..., c]] for c in range(3)], axis=1)


def waveform_to_mel(waveform: Floats | None, settings: MediaSettings) -> Floats:
    """The log-mel of a waveform (S,), or of silence where a clip has no audio: float32 (M, T)."""
    return log_mel(
        np.zeros(0, dtype=np.float32) if waveform is None else waveform,
        n_fft=settings.n_fft,
        hop_length=settings.hop_length,
        num_mel_bins=settings.num_mel_bins,
        sampling_rate=settings.sampling_rate,
        n_samples=settings.n_samples,
    )


def log_mel(
    waveform: Floats,
    *,
    n_fft: int,
    hop_length: int,
    num_mel_bins: int,
    sampling_rate: int,
    n_samples: int,
) -> Floats:
    """Whisper's log-mel spectrogram of the first `n_samples`, padded with silence: float32 (M, T).

    T = n_samples // hop_length. Slaney scale and norm, the last frame dropped, then log10 of at
    least 1e-10, at most 8 below the clip's maximum, (x + 4) / 4 (arXiv 2212.04356;
    WhisperFeatureExtractor).
    """
    import torch

    mel = _mel_spectrogram(n_fft, hop_length, num_mel_bins, sampling_rate)
    samples = torch.zeros(n_samples)
    used = waveform[:n_samples]
    samples[: len(used)] = torch.from_numpy(np.ascontiguousarray(used, dtype=np.float32))
    power = mel(samples)[:, :-1]  # (M, T)
    log = power.clamp(min=1e-10).log10()
    log = torch.maximum(log, log.max() - 8.0)
    result: Floats = ((log + 4.0) / 4.0).numpy()
    return result


def preprocess(path: Path, settings: MediaSettings) -> TowerInputs:
    """A clip file as the towers take it. Raises UnreadableMedia as `decode` does."""
    media = decode(path, settings.num_frames, settings.sampling_rate)
    return TowerInputs(
        frames_to_pixels(media.frames, settings),
        waveform_to_mel(media.waveform, settings),
        media.waveform is not None,
    )


@lru_cache(maxsize=4)
def _mel_spectrogram(n_fft: int, hop_length: int, num_mel_bins: int, sampling_rate: int) -> Any:
    import torch
    from torchaudio.transforms import MelSpectrogram

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as Whisper's: in single precision they are 4e-5 off
    try:
        mel = MelSpectrogram(
            sample_rate=sampling_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=num_mel_bins,
            f_min=0.0,
            f_max=sampling_rate / 2,
            power=2.0,
            norm="slaney",
            mel_scale="slaney",
        )
    finally:
        torch.set_default_dtype(before)
    mel.mel_scale.float()
    mel.spectrogram.window = torch.hann_window(n_fft)
    return mel


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns errors about `path` into UnreadableMedia, decord's own into UnindexedVideo."""
    try:
        yield
    except _DECODING_ERRORS as error:
        said = getattr(error, "strerror", None) or str(error)
        lines = said.strip().splitlines() or [repr(error)]
        reason = _SOURCE_LINE.sub("", lines[0])
        kind = UnindexedVideo if isinstance(error, DECORDError) else UnreadableMedia
        raise kind(f"{path}: cannot be decoded: {reason}") from error


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    # an absolute name, lest ffmpeg takes "a:b.mp4" for a protocol
    with av.open(os.path.abspath(path)) as container:  # noqa: PTH100
        if not container.streams.video:
            raise UnreadableMedia(f"{path}: has no video stream")
        yield container


def read_waveform(path: Path, container: InputContainer, sampling_rate: int) -> Floats | None:
    """The first audio track, mono float32 (S,); None where there is none, or it is empty.

    Raises UnreadableMedia where much of it is lost.
    """
    if not container.streams.audio:
        return None
    resampler = av.AudioResampler(
        format="flt", layout="mono", rate=sampling_rate, frame_size=_RESAMPLED_SAMPLES
    )
    pieces = heard = 0
    frames: list[av.AudioFrame] = []
    for frame in container.decode(audio=0):
        frame.pts = None  # jumping time stamps would be refused; sound is read as one piece
        pieces += 1
        heard += frame.samples
        frames += resampler.resample(frame)
    if not heard:
        return None
    _refuse_cut_sound(path, container, pieces)
    frames += resampler.resample(None)
    return np.concatenate([f.to_ndarray().reshape(-1) for f in frames]).astype(np.float32)


def _play(path: Path, container: InputContainer) -> tuple[int, bool]:
    """How many frames were decoded well (it stops at `_WATCHED_FRAMES`), and if there is any sound.

    A video decoder conceals what is missing by repeating or smearing frames: those do not count.
    Raises UnreadableMedia where much of the sound is lost.
    """
    video, audio = container.streams.video[0], next(iter(container.streams.audio), None)
    video.thread_type = "NONE"  # the processes are the threads
    watched = damaged = pieces = heard = 0
    for packet in container.demux(video, *([] if audio is None else [audio])):
        if packet.stream is video and watched >= _WATCHED_FRAMES:
            continue
        for frame in packet.decode():
            if isinstance(frame, av.AudioFrame):
                pieces += 1
                heard += frame.samples
            elif isinstance(frame, av.VideoFrame):
                watched += 1
                damaged += frame.is_corrupt
    if heard:
        _refuse_cut_sound(path, container, pieces)
    return watched - damaged, heard > 0


def _refuse_cut_sound(path: Path, container: InputContainer, pieces: int) -> None:
    announced = container.streams.audio[0].frames if "mp4" in container.format.name else 0
    if pieces + _SKIPPED_SOUND < COMPLETE * announced:
        raise UnreadableMedia(
            f"{path}: is cut short: {pieces} of the {announced} pieces of sound that its header "
            "announces"
        )


def _form(container: Any) -> Form:
    """What decides whether decord can hand out an open clip's frames."""
    video = container.streams.video[0]
    kind = (video.codec_context.name, video.codec_context.pix_fmt or "")
    return (container.format.name, *kind, video.width, video.height)


def _open_video(path: Path, announced_frames: int) -> Any:
    """decord's reader of the file. Raises UnreadableMedia where much of the video is missing."""
    video = decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)  # noqa: PTH100
    if len(video) == 0:
        raise UnreadableMedia(f"{path}: its video has no frames")
    if len(video) < COMPLETE * announced_frames:
        raise UnreadableMedia(
            f"{path}: is cut short: {len(video)} of the {announced_frames} frames that its header "
            "announces"
        )
    return video
