"""Noise in the shapes of a HumanOmni's features."""

import torch

from r1omni.model.feature_store import Features


def noise_features(config, n: int, generator: torch.Generator | None = None) -> list[Features]:
    """The features of `n` clips, float32."""
    vision = torch.randn(
        n,
        config.num_frames,
        config.patch_grid**2,
        config.vision_config.hidden_size,
        generator=generator,
    )
    audio = torch.randn(n, config.audio_tokens, config.audio_config.d_model, generator=generator)
    return as_features(vision, audio)


def as_features(vision: torch.Tensor, audio: torch.Tensor) -> list[Features]:
    """(B, F, N, Dv), (B, A, Da) -> B clips' features."""
    return [{"vision": v, "audio": a} for v, a in zip(vision, audio, strict=True)]
