"""Qwen2.5-Omni's frozen towers on one clip: transformers' own modules, up to the language model.

Shapes: `F` frames, `n` and `m` tokens of picture and sound, `D` the language model's width.
"""

from typing import Any

import torch
from torch import Tensor

from r1omni.media import TowerInputs
from r1omni.model.feature_store import Features


@torch.no_grad()
def encode_clip(model: Any, clip: TowerInputs) -> Features:
    """What a thinker's towers make of a clip, on the CPU; without entries for what it lacks.

    `video` (n, D) and `audio` (m, D) in the towers' precision, float32's in half precision; `grid`
    int64 (3,) the picture's patches in time, height and width; `seconds` float32 (1,) from one
    step of the grid to the next. Raises ValueError where they do not fit half precision.
    """
    features: dict[str, Tensor] = {}
    if len(clip.pixels):
        config = model.config.vision_config
        patches, grid = as_patches(torch.from_numpy(clip.pixels), config)
        seen = model.visual(patches.to(model.device), grid_thw=grid[None].to(model.device))
        # pooler_output is in reading order; last_hidden_state is in the order of the windows
        features["video"] = _stored(seen.pooler_output)
        features["grid"] = grid
        features["seconds"] = torch.tensor([config.temporal_patch_size * clip.frame_seconds])
    mel = torch.from_numpy(clip.mel)
    if count_audio_tokens(mel.shape[1]):
        lengths = torch.tensor([mel.shape[1]], device=model.device)
        heard = model.audio_tower(mel.to(model.device), feature_lens=lengths)
        features["audio"] = _stored(heard.pooler_output)
    return features


def as_patches(pixels: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """The patches that the vision tower takes, and their grid: (F, 3, H, W) -> (t*h*w, ...), (3,).

    An odd number of frames repeats the last. The order is that of transformers'
    Qwen2VLVideoProcessor: the patches of a token stand together.
    """
    step, side, merge = config.temporal_patch_size, config.patch_size, config.spatial_merge_size
    if odd := -len(pixels) % step:
        pixels = torch.cat([pixels, pixels[-1:].expand(odd, -1, -1, -1)])
    F, C, H, W = pixels.shape
    grid = (F // step, H // side, W // side)
    parts = pixels.view(
        grid[0], step, C, grid[1] // merge, merge, side, grid[2] // merge, merge, side
    )
    parts = parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # t, rows, columns, 2, 2, C, step, side, side
    return parts.reshape(grid[0] * grid[1] * grid[2], -1), torch.tensor(grid)


def count_audio_tokens(mel_frames: int) -> int:
    """How many tokens a sound becomes: its frames halved by a convolution and by pooling."""
    return ((mel_frames - 1) // 2 + 1) // 2


def _stored(features: Tensor) -> Tensor:
    """The features as they are kept. Raises ValueError where they do not fit half precision."""
    kept = features if features.dtype == torch.bfloat16 else features.half()
    if not kept.isfinite().all():
        raise ValueError("the towers' outputs do not fit half precision: are the weights sound?")
    return kept.cpu()
