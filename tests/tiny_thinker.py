"""A random Qwen2.5-Omni thinker, and clips of different sizes and lengths."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from r1omni.media import TowerInputs
from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.qwen_omni.tiny import build_qwen_omni

TEXTS = ["The brows are raised, the mouth smiling; the voice is loud."]
MODEL = SimpleNamespace(
    vision=SimpleNamespace(
        hidden_size=32, intermediate_size=48, depth=3, num_heads=2, patch_size=14
    ),
    audio=SimpleNamespace(
        d_model=32,
        encoder_ffn_dim=48,
        encoder_layers=2,
        encoder_attention_heads=2,
        num_mel_bins=128,
    ),
    text=SimpleNamespace(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    max_vocab_size=320,
)
MEDIA = SimpleNamespace(
    num_frames=3,  # odd: the last is repeated
    min_pixels=56 * 56,
    max_pixels=168 * 224,
    sampling="time",
    sampling_rate=16000,
    audio_seconds=4.0,
)
LARGE = (168, 224, 1.3, 0.37)  # height, width, seconds of sound, seconds a frame; six windows
RAGGED = (LARGE, (60, 90, 0.0, 1.31), (0, 0, 2.71, 0.0), (120, 80, 3.9, 1.2))
BOTH = (LARGE, (56, 84, 3.3, 1.9), (120, 80, 3.9, 1.2))  # chunks of two seconds take turns


def tiny_thinker(media: Any = MEDIA, seed: int = 0) -> QwenOmniBackbone:
    """Weights so large that every token's place shows in the logits."""
    torch.manual_seed(seed)
    backbone = build_qwen_omni(TEXTS, model=MODEL, media=media)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def noise_clips(preparation: Any, shapes: Any = RAGGED) -> list[TowerInputs]:
    """A clip of noise for each (height, width, seconds of sound, seconds a frame)."""
    rng = np.random.default_rng(0)
    clips = []
    for height, width, seconds, step in shapes:
        size = (preparation.num_frames, height, width, 3)
        frames = rng.integers(0, 255, size, dtype=np.uint8)
        wave = 0.1 * rng.standard_normal(round(seconds * preparation.sampling_rate))
        seen = preparation.frames_to_pixels(frames) if height else preparation.without_picture()
        heard = preparation.waveform_to_mel(wave.astype(np.float32) if seconds else None)
        clips.append(TowerInputs(seen, heard, bool(seconds), step))
    return clips
