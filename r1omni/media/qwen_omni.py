"""How a clip becomes the inputs of Qwen2.5-Omni's towers: each clip keeps its own size and length.

What transformers' PIL image processor computes, but for float32's rounding, and bit for bit what
its WhisperFeatureExtractor does, without importing it. Frames are resized here and nowhere else.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from r1omni.media.inputs import (
    PADDING_SECONDS,
    Floats,
    Frames,
    Sampling,
    log_mel,
    resized_pixels,
)

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
MERGE: Final = 2  # patches along each side that become one token
MAX_RATIO: Final = 200  # of a frame's sides
_N_FFT: Final = 400  # Whisper's
_HOP: Final = 160
_FEWEST: Final = 3  # mel frames that become a token: the tower halves them twice
_MARGIN: Final = 3  # mel frames of silence behind the sound, as it has in the extractor's padding


@dataclass(frozen=True)
class QwenMedia:
    """A Qwen2.5-Omni's media settings: a `Preparation`.

    A frame is resized to whole tokens of `patch_size` x 2 pixels a side and `min_pixels` to
    `max_pixels` in all. `audio_in_video`: sound and picture take turns in the prompt, in chunks of
    two seconds, instead of following each other. Raises ValueError for numbers that leave nothing
    to see or to hear.
    """

    num_frames: int
    min_pixels: int
    max_pixels: int
    sampling: Sampling
    sampling_rate: int
    audio_seconds: float
    audio_in_video: bool = False
    patch_size: int = 14
    num_mel_bins: int = 128

    def __post_init__(self) -> None:
        counts = (self.num_frames, self.min_pixels, self.sampling_rate, self.patch_size)
        if min(*counts, self.num_mel_bins, self.n_samples) < 1 or self.max_pixels < self.min_pixels:
            raise ValueError(
                f"every number must be above 0, and max_pixels at least min_pixels: {self}"
            )

    @property
    def n_samples(self) -> int:
        """Samples of sound that the model hears."""
        return round(self.audio_seconds * self.sampling_rate)

    def cuts(self, seconds: float) -> bool:
        """Whether a sound of `seconds` loses more than an encoder's padding."""
        return seconds > self.audio_seconds + PADDING_SECONDS

    def frames_to_pixels(self, frames: Frames) -> Floats:
        """Frames uint8 (F, H, W, 3) -> float32 (F, 3, H', W'), whole tokens high and wide."""
        height, width = smart_resize(
            frames.shape[1],
            frames.shape[2],
            MERGE * self.patch_size,
            self.min_pixels,
            self.max_pixels,
        )
        return resized_pixels(frames, (width, height), CLIP_MEAN, CLIP_STD)

    def waveform_to_mel(self, waveform: Floats | None) -> Floats:
        """A waveform (S,) -> its log-mel float32 (M, T), T = ceil(S / 160).

        (M, 0) without a waveform, and for one so short that no token would come of it.
        """
        used = np.zeros(0, np.float32) if waveform is None else waveform[: self.n_samples]
        n_frames = math.ceil(len(used) / _HOP)
        if n_frames < _FEWEST:
            return np.zeros((self.num_mel_bins, 0), dtype=np.float32)
        mel = log_mel(
            used,
            n_fft=_N_FFT,
            hop_length=_HOP,
            num_mel_bins=self.num_mel_bins,
            sampling_rate=self.sampling_rate,
            n_samples=(n_frames + _MARGIN) * _HOP,
        )
        return mel[:, :n_frames]

    def without_picture(self) -> Floats:
        """No frames: the prompt leaves them out."""
        return np.zeros((0, 3, 0, 0), dtype=np.float32)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The multiples of `factor` nearest to height and width, within the pixels allowed.

    transformers' qwen2_vl `smart_resize`, but for a narrower frame than 1 : 200, which it refuses:
    that is resized as one of 1 : 200.
    """
    height, width = max(height, width // MAX_RATIO), max(width, height // MAX_RATIO)
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if high * wide > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        high = max(factor, math.floor(height / beta / factor) * factor)
        wide = max(factor, math.floor(width / beta / factor) * factor)
    elif high * wide < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        high = math.ceil(height * beta / factor) * factor
        wide = math.ceil(width * beta / factor) * factor
    return high, wide
