"""The frozen towers: SigLIP sees, Whisper hears. Each keeps the precision that it was published in.

Shapes: `M` frames, `N` patches a frame, `B` clips, `A` audio tokens, `Dv`/`Da` tower widths.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from r1omni.model.humanomni.configuration import HumanOmniConfig

TOWERS = ("vision_tower", "audio_tower")  # of HumanOmniModel


class VisionTower(nn.Module):
    """SigLIP up to the selected hidden state: (M, 3, H, W) -> (M, N, Dv).

    Only the layers below it run; the others and the pooling head are kept, for the checkpoint.
    """

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__()
        self.n_layers = config.vision_layers
        self.vision_tower = nn.ModuleDict({"vision_model": SiglipVisionModel(config.vision_config)})

    def forward(self, pixels: Tensor) -> Tensor:
        siglip: Any = self.vision_tower["vision_model"]
        hidden: Tensor = siglip.embeddings(pixels)
        for layer in siglip.encoder.layers[: self.n_layers]:
            hidden = layer(hidden, None)
        return hidden


class AudioTower(nn.Module):
    """Whisper's encoder, its last state averaged over `pool` positions: (B, M, T) -> (B, A, Da)."""

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__()
        self.pool = config.audio_pool
        self.audio_tower = nn.ModuleDict({"encoder": WhisperEncoder(config.audio_config)})

    def forward(self, mel: Tensor) -> Tensor:
        encoder: Any = self.audio_tower["encoder"]
        hidden = encoder(mel.to(encoder.conv1.weight.dtype)).last_hidden_state
        return functional.avg_pool1d(hidden.transpose(1, 2), self.pool).transpose(1, 2)


def tower_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors that are the towers'."""
    return {name: t for name, t in tensors.items() if name.split(".")[1:2] in ([x] for x in TOWERS)}


def are_half(tensors: Mapping[str, Tensor], tower: str) -> bool:
    """Whether a tower's tensors are all float16, as Whisper is published. bfloat16 is no tower's
    own precision: it rounds to eight bits what was published with eleven or more.
    """
    kinds = {t.dtype for n, t in tensors.items() if n.startswith(f"model.{tower}.")}
    return kinds == {torch.float16}
