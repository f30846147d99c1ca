"""The models and clips of the benchmarks: random weights, fixed seeds, completions that never end.

The mid-size model has the released model's proportions at a size that one core can train. Its
prompt has 999 positions: 392 video (8 frames of 49), 500 audio (1500 / 3) and 107 text.
"""

from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from benchmarks.textbook import Prompt
from r1omni import prompts
from r1omni.base_model.humanomni import build_untrained
from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.backbone import PromptBatch
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.params_file import read_params

Model = HumanOmniForConditionalGeneration
TEXT_TOKENS = 107  # of the prompt, apart from the two sentinels
GATE_TOKENS = 48
KL_COEF = 0.04


@dataclass(frozen=True)
class Workload:
    """A policy, a reference that differs from it, and the clips of one step."""

    policy: Model
    reference: Model
    clips: list[Prompt]  # media raw

    def cached(self) -> list[Prompt]:
        """The clips with the towers' outputs instead of the media."""
        return [with_features(self.policy, clip) for clip in self.clips]


def midsize_config(vocab_size: int = 16384) -> HumanOmniConfig:
    """SigLIP 4 x 256 at 224/16, Whisper 4 x 384, Qwen2 6 x 512 with 8 query and 2 key heads."""
    return HumanOmniConfig(
        text_config=Qwen2Config(
            vocab_size=vocab_size, hidden_size=512, intermediate_size=2816, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=2,
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
            image_size=224, patch_size=16,
        ),
        audio_config=WhisperConfig(
            d_model=384, encoder_ffn_dim=1536, encoder_layers=4, encoder_attention_heads=6,
            num_mel_bins=80, max_source_positions=1500, encoder_layerdrop=0.0,
        ),
        gate_config=BertConfig(
            vocab_size=1000, hidden_size=128, intermediate_size=512, num_hidden_layers=2,
            num_attention_heads=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def real_config() -> HumanOmniConfig:
    """The shapes of the released 0.5B checkpoints."""
    return HumanOmniConfig(
        text_config=Qwen2Config(
            vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
            num_attention_heads=14, num_key_value_heads=2,
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            image_size=224, patch_size=16,
        ),
        audio_config=WhisperConfig(
            d_model=1280, encoder_ffn_dim=5120, encoder_layers=32, encoder_attention_heads=20,
            num_mel_bins=128, max_source_positions=1500, encoder_layerdrop=0.0,
        ),
        gate_config=BertConfig(
            vocab_size=30522, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def growth_config() -> HumanOmniConfig:
    """The mid-size model with few media positions (49 + 50), so prompts can be short."""
    config = midsize_config()
    config.num_frames = 1
    config.audio_config.max_source_positions = 150
    return config


def default_config(params: Path) -> tuple[HumanOmniConfig, int]:
    """The embedded default's architecture, and the text tokens of its prompt."""
    read = read_params(params)
    built = build_untrained([], [], model=read.model, media=read.media)
    model, processor = built.model, built.processor
    text = len(processor.encode_prompt(prompts.instruction("reasoned"))) - 2  # two sentinels
    model.config.text_config.vocab_size = read.model.max_vocab_size
    return model.config, text


def build_workload(
    config: HumanOmniConfig, n_clips: int = 1, text_tokens: int = TEXT_TOKENS
) -> Workload:
    """The workload of a config; the reference is the policy with slightly changed weights."""
    torch.manual_seed(0)
    policy = Model(config).eval()
    for tower in (policy.model.vision_tower, policy.model.audio_tower):
        tower.requires_grad_(False)
    reference = deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "_tower." not in name:  # the towers are the same in both
                parameter.mul_(1.0 + 0.05 * torch.randn(()))
    return Workload(policy, reference, [make_clip(config, i, text_tokens) for i in range(n_clips)])


def moved(workload: Workload, device: torch.device, dtype: torch.dtype) -> Workload:
    """The workload on another device, in another precision."""

    def move(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    clips = [
        Prompt(*(move(getattr(clip, field.name)) for field in fields(clip)))  # type: ignore[arg-type]
        for clip in workload.clips
    ]
    models = (model.to(device, dtype) for model in (workload.policy, workload.reference))
    return Workload(*models, clips)


def make_clip(config: HumanOmniConfig, seed: int, text_tokens: int = TEXT_TOKENS) -> Prompt:
    """A clip of noise with a random instruction: video and audio after a third of the text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, config.text_config.vocab_size, (text_tokens,), generator=generator)
    third = text_tokens // 3
    sentinels = torch.tensor([config.video_token_id, config.audio_token_id])
    ids = torch.cat([text[:third], sentinels[:1], text[third:-third], sentinels[1:], text[-third:]])
    vision, audio = config.vision_config, config.audio_config
    side = vision.image_size
    gate = torch.randint(3, config.gate_config.vocab_size, (GATE_TOKENS,), generator=generator)
    return Prompt(
        input_ids=ids[None],
        gate_input_ids=gate[None],
        pixels=torch.randn(1, config.num_frames, 3, side, side, generator=generator),
        mel=torch.randn(1, audio.num_mel_bins, 2 * audio.max_source_positions, generator=generator),
    )


@torch.no_grad()
def with_features(model: Model, clip: Prompt) -> Prompt:
    """The clip as the feature cache serves it."""
    assert clip.pixels is not None and clip.mel is not None
    return Prompt(
        clip.input_ids,
        clip.gate_input_ids,
        vision_features=model.encode_vision(clip.pixels),
        audio_features=model.encode_audio(clip.mel),
    )


def text_only(config: HumanOmniConfig, seed: int, length: int = 999) -> Prompt:
    """A prompt of text alone, for the language-model part."""
    generator = torch.Generator().manual_seed(seed)
    vocab = config.text_config.vocab_size
    return Prompt(
        torch.randint(3, vocab, (1, length), generator=generator), torch.ones(1, 1).long()
    )


def as_batch(model: Model, clips: list[Prompt]) -> PromptBatch:
    """The fast path's input: prompts of one length, and features (computed here from raw media)."""
    clips = [with_features(model, clip) if clip.pixels is not None else clip for clip in clips]
    ids = torch.cat([clip.input_ids for clip in clips])
    gates = torch.cat([clip.gate_input_ids for clip in clips])
    vision = [clip.vision_features for clip in clips if clip.vision_features is not None]
    audio = [clip.audio_features for clip in clips if clip.audio_features is not None]
    config = model.config  # text alone: one blank position, which no sentinel asks for
    like = {"device": ids.device, "dtype": model.dtype}
    blank_vision = torch.zeros(len(clips), 1, 4, config.vision_config.hidden_size, **like)
    blank_audio = torch.zeros(len(clips), 1, config.audio_config.d_model, **like)
    tensors = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "gate_input_ids": gates,
        "gate_attention_mask": torch.ones_like(gates),
    }
    seen = torch.cat(vision) if vision else blank_vision
    heard = torch.cat(audio) if audio else blank_audio
    pairs = zip(seen, heard, strict=True)
    return PromptBatch(tensors, tuple({"vision": v, "audio": a} for v, a in pairs))


def as_backbone(model: Model) -> HumanOmniBackbone:
    """The model as the recipe takes it; its prompts come from `as_batch`, so it needs no words."""
    return HumanOmniBackbone(model, cast(HumanOmniProcessor, None))


def advantages_of(n_clips: int, group_size: int) -> Tensor:
    """Made-up non-zero advantages: (P, G)."""
    rewards = torch.arange(group_size).expand(n_clips, group_size).float()
    return (rewards - rewards.mean(dim=1, keepdim=True)) / rewards.std(dim=1, keepdim=True)
