"""The towers' inputs: normalised pixels from frames, a log-mel from a waveform."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Sampling = Literal["index", "time"]
PADDING_SECONDS: Final = 0.15  # silence that encoders add around a sound: AAC 2,047 samples


class Preparation(Protocol):
    """How a clip becomes a backbone's inputs: its checkpoint's media settings.

    Frozen and picklable; decoding processes run it, so it imports no transformers.
    """

    @property
    def num_frames(self) -> int: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def sampling_rate(self) -> int: ...
    @property
    def n_samples(self) -> int:
        """Samples of sound that the model hears; the rest of a clip's sound is cut."""
        ...

    @property
    def audio_seconds(self) -> float: ...
    def cuts(self, seconds: float) -> bool: ...
    def frames_to_pixels(self, frames: Frames) -> Floats:
        """Frames uint8 (F, H, W, 3) -> float32 (F, 3, H', W')."""
        ...

    def waveform_to_mel(self, waveform: Floats | None) -> Floats:
        """A waveform (S,), or None for silence -> float32 (M, T)."""
        ...

    def without_picture(self) -> Floats:
        """What stands for the frames of a file that has none, as `frames_to_pixels` gives them."""
        ...


@dataclass(frozen=True)
class MediaSettings:
    """How a clip becomes the inputs of SigLIP and Whisper; a HumanOmni's processor has one.

    `sampling`: frames at even steps of their index, as in the original, or of time. Older
    checkpoints lack it and use the index.
    """

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
    sampling: Sampling = "index"

    @property
    def audio_seconds(self) -> float:
        """Seconds of sound that the model hears; the rest of a clip's sound is cut."""
        return self.n_samples / self.sampling_rate

    def cuts(self, seconds: float) -> bool:
        """Whether a sound of `seconds` loses more than an encoder's padding."""
        return seconds > self.audio_seconds + PADDING_SECONDS

    def frames_to_pixels(self, frames: Frames) -> Floats:
        """SigLIP's pixels: frames uint8 (F, H, W, 3) -> float32 (F, 3, H', W')."""
        return frames_to_pixels(frames, self)

    def waveform_to_mel(self, waveform: Floats | None) -> Floats:
        """Whisper's log-mel of a waveform (S,), or of silence: float32 (M, T)."""
        return waveform_to_mel(waveform, self)

    def without_picture(self) -> Floats:
        """Black frames."""
        side = self.image_size
        return self.frames_to_pixels(np.zeros((self.num_frames, side, side, 3), dtype=np.uint8))


@dataclass(frozen=True)
class TowerInputs:
    """The towers' inputs of one clip: pixels float32 (F, 3, H, W), mel float32 (M, T).

    `frame_seconds`: from one sampled frame to the next; 0 without a picture.
    """

    pixels: Floats
    mel: Floats
    has_audio: bool
    frame_seconds: float = 0.0


def pad_to_square(frames: Frames, colour: tuple[int, int, int]) -> Frames:
    """The frames centred in squares of `colour`: (F, H, W, 3) -> (F, S, S, 3)."""
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
    """SigLIP's pixels: frames uint8 (F, H, W, 3) -> float32 (F, 3, H', W').

    Padded to a square with the mean colour, resized (bicubic), rescaled and normalised. Bit for bit
    transformers' SiglipImageProcessorPil, whose import costs a decoding process five seconds.
    """
    if settings.aspect_ratio == "pad":
        red, green, blue = (int(mean * 255) for mean in settings.image_mean)
        frames = pad_to_square(frames, (red, green, blue))
    size = (settings.image_size, settings.image_size)
    return resized_pixels(frames, size, settings.image_mean, settings.image_std)


def resized_pixels(
    frames: Frames, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Floats:
    """Frames resized to (width, height), bicubic, rescaled to [0, 1] and normalised.

    uint8 (F, H, W, 3) -> float32 (F, 3, height, width).
    """
    resized = np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames]
    )
    # a byte has 256 values, so each channel needs a table of 256 floats
    table = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    means, stds = np.array([mean, std], dtype=np.float32)
    tables = (table[:, None] - means) / stds  # (256, 3)
    return np.stack([tables[:, c][resized[..., c]] for c in range(3)], axis=1)


def waveform_to_mel(waveform: Floats | None, settings: MediaSettings) -> Floats:
    """The log-mel of a waveform (S,), or of silence if a clip has no audio: float32 (M, T)."""
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

    T = n_samples // hop_length. Slaney scale and norm, without the last frame; then log10, clamped
    to at least 1e-10 before and to the clip's maximum - 8 after, and (x + 4) / 4 (arXiv 2212.04356;
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


@lru_cache(maxsize=4)
def _mel_spectrogram(n_fft: int, hop_length: int, num_mel_bins: int, sampling_rate: int) -> Any:
    import torch
    from torchaudio.transforms import MelSpectrogram

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as in Whisper; in float32 the filters are 4e-5 off
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
