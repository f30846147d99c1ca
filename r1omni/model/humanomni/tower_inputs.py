"""Decoded clips as tensors, in memory that torch has allocated.

NumPy aligns its arrays to 16 bytes only, and torch's kernels round differently by alignment: the
same clips would not give the same bits twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from r1omni.media import TowerInputs


def stack_inputs(clips: Sequence[TowerInputs]) -> tuple[Tensor, Tensor]:
    """Pixels (B, F, 3, H, W) and log-mels (B, M, T) of some clips, float32."""
    pixels = torch.stack([torch.from_numpy(clip.pixels) for clip in clips])
    mels = torch.stack([torch.from_numpy(clip.mel) for clip in clips])
    return pixels, mels
