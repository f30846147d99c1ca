"""The base stage's Qwen2.5-Omni: a tiny thinker of random weights, its towers, a public one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from r1omni import completions, prompts
from r1omni.base_model.towers import Tower
from r1omni.emotions import EMOTIONS
from r1omni.media import TowerInputs
from r1omni.model.conversion_report import ConversionReport
from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.qwen_omni.checkpoint import load_thinker, read_media
from r1omni.model.qwen_omni.loading import join
from r1omni.model.qwen_omni.tiny import build_qwen_omni
from r1omni.model.qwen_omni.towers import as_patches, count_audio_tokens
from r1omni.model_config import QwenOmniMediaParams, QwenOmniParams

SEEN: Final = 8  # means over a clip's tokens that the heads read, and of its sound
HEARD: Final = 16


def build_untrained(
    captions: Sequence[str],
    rationales: Sequence[str],
    *,
    model: QwenOmniParams,
    media: QwenOmniMediaParams,
) -> QwenOmniBackbone:
    """A randomly initialised thinker, and a tokenizer trained on all the text that we use."""
    modes = [prompts.instruction(mode) for mode in ("reasoned", "direct")]
    turns = [m["content"] for q in (prompts.CAPTION_QUESTION, *modes) for m in prompts.messages(q)]
    answers = [completions.render("", label) for label in EMOTIONS]
    texts = [*turns, *captions, *rationales, *answers, *EMOTIONS]
    return build_qwen_omni(texts, model=model, media=media)


def thinker_towers(backbone: QwenOmniBackbone) -> dict[str, Tower]:
    """Both towers with merger and projector: what they output is what the language model reads."""
    inner = backbone.model.model
    width = backbone.model.config.text_config.hidden_size

    def see(clips: Sequence[TowerInputs]) -> Tensor:
        pixels = (torch.from_numpy(clip.pixels) for clip in clips)
        pairs = [as_patches(x, inner.config.vision_config) for x in pixels]
        grid = torch.stack([grid for _, grid in pairs])
        seen = inner.visual(torch.cat([patches for patches, _ in pairs]), grid_thw=grid)
        merged = inner.config.vision_config.spatial_merge_size**2
        return equally_many(SEEN, seen.pooler_output, (grid.prod(dim=1) // merged).tolist())

    def hear(clips: Sequence[TowerInputs]) -> Tensor:
        mels = [torch.from_numpy(clip.mel) for clip in clips]
        lengths = [mel.shape[1] for mel in mels]
        heard = inner.audio_tower(torch.cat(mels, dim=1), feature_lens=torch.tensor(lengths))
        counts = [count_audio_tokens(length) for length in lengths]
        return equally_many(HEARD, heard.pooler_output, counts)

    return {
        "vision": Tower(inner.visual, see, SEEN, width),
        "audio": Tower(inner.audio_tower, hear, HEARD, width),
    }


def read_thinker(
    source: Path, *, allow: Sequence[str], media: QwenOmniMediaParams
) -> tuple[QwenOmniBackbone, ConversionReport]:
    """A public Qwen2.5-Omni's thinker, and the account of what became of its tensors.

    Public checkpoints record neither frames nor seconds: `media` says how clips are read.
    """
    model, read = load_thinker(source, allow)
    return join(model, read, replace(read_media(read), **media.model_dump())), read.report


def equally_many(n: int, tokens: Tensor, counts: list[int]) -> Tensor:
    """Each clip's tokens as `n` means over equal stretches: (sum of counts, D) -> (B, n, D)."""
    clips = [clip.T[None] for clip in torch.split(tokens, counts)]
    return torch.cat([functional.adaptive_avg_pool1d(clip, n) for clip in clips]).transpose(1, 2)
