"""A HumanOmni of a profile's shapes with random weights, and clips of noise for it."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.one_step import NO_END
from benchmarks.rates import made_up_clip
from r1omni import prompts
from r1omni.config import Params
from r1omni.corpora.clip import Clip
from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration
from r1omni.model.backbone import Backbone, PromptBatch
from r1omni.model.feature_store import Features, FeatureStore
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.humanomni.configuration import build_config
from r1omni.model.humanomni.processor import (
    HumanOmniProcessor,
    build_processor,
    train_gate_tokenizer,
    train_tokenizer,
)
from r1omni.model.sampling import Decoded, decode
from r1omni.model.shared_prefix import Prefix
from r1omni.model_config import HumanOmniMediaParams, HumanOmniParams
from r1omni.rewards import Rewards

GATE_VOCAB = 30522  # of bert-base-uncased
TEXTS = ["A face and a voice.", "happy", "sad"]


def random_config(params: Params) -> tuple[HumanOmniConfig, HumanOmniProcessor]:
    """The profile's config with the released vocabularies' sizes, and a processor of few tokens."""
    assert isinstance(params.model, HumanOmniParams)
    assert isinstance(params.media, HumanOmniMediaParams)
    processor = build_processor(
        params.media, train_tokenizer(TEXTS, 400), train_gate_tokenizer(TEXTS)
    )
    config = build_config(
        params.model,
        params.media,
        vocab_size=params.model.max_vocab_size,
        gate_vocab_size=GATE_VOCAB,
        eos_token_id=processor.eos_token_id,
        pad_token_id=processor.pad_token_id,
    )
    return config, processor


def build_random(params: Params, device: torch.device) -> HumanOmniBackbone:
    """The profile's model in float32 on a device (also `meta`), frozen as the recipe does."""
    config, processor = random_config(params)
    torch.manual_seed(0)
    with device:
        model = HumanOmniForConditionalGeneration(config).eval()
    backbone = HumanOmniBackbone(model, processor)
    backbone.freeze()
    return backbone


def prompt_positions(backbone: HumanOmniBackbone) -> int:
    """Positions of a clip's expanded prompt: its two sentinels become video and sound."""
    config = backbone.model.config
    text = len(backbone.processor.encode_prompt(prompts.instruction("reasoned"))) - 2
    return int(text + config.visual_tokens + config.audio_tokens)


class NoiseStore(FeatureStore):
    """Features of noise in half precision, as the stage `features` would have kept them."""

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__([])
        self._vision = config.num_frames, config.patch_grid**2, config.vision_config.hidden_size
        self._audio = config.audio_tokens, config.audio_config.d_model

    def load(self, clip_ids: Sequence[str]) -> list[Features]:
        """The same noise for the same clip."""
        return [self._noise(int(clip_id)) for clip_id in clip_ids]

    def _noise(self, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"vision": self._vision, "audio": self._audio}
        return {n: torch.randn(s, generator=generator).half() for n, s in shapes.items()}


def noise_clips(n: int, folder: Path) -> list[Clip]:
    """Clips whose ids are numbers, as NoiseStore reads them; `folder` gets an empty file each."""
    paths = [folder / f"{i}.mp4" for i in range(n)]
    for path in paths:
        path.touch()
    return [made_up_clip(path) for path in paths]


def alternating_rewards() -> Rewards:
    """0, 1, 0, 1, …: a random model's own rewards would all be 0, and teach nothing."""
    turns: Iterator[float] = cycle((0.0, 1.0))
    return Rewards({"alternating": lambda _text, _clip: next(turns)}, {"alternating": 1.0})


class EndlessSampler:
    """Samples from the policy completions that never end, so that every run has equal work."""

    def __init__(self, policy: Backbone) -> None:
        self._policy = policy

    def sample(
        self,
        asked: PromptBatch,
        prefix: Prefix,
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        draws: Tensor,
    ) -> Decoded:
        """As training/rollouts.py: Sampler."""
        return decode(
            self._policy.language_model,
            prefix,
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            eos_token_id=NO_END,
            temperature=temperature,
            draws=draws,
        )
