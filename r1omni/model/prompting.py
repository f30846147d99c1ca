"""From clips' features and instructions to a prefilled prompt: the only road, for every stage."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from r1omni.model.feature_store import FeatureBatch
from r1omni.model.modelling import HumanOmniForConditionalGeneration
from r1omni.model.processor import HumanOmniProcessor
from r1omni.model.shared_prefix import Prefix, count_positions, prefill


@dataclass(frozen=True)
class PromptBatch:
    """P prompts as the model takes them: ids padded, features from the cache, on one device."""

    input_ids: Tensor  # (P, L) left-padded, with sentinels
    attention_mask: Tensor  # (P, L)
    gate_input_ids: Tensor  # (P, I) right-padded
    gate_attention_mask: Tensor  # (P, I)
    vision_features: Tensor  # (P, F, N, Dv)
    audio_features: Tensor  # (P, A, Da)

    def select(self, prompts: Tensor) -> "PromptBatch":
        """Only some prompts, by their index (P',)."""
        return PromptBatch(*(getattr(self, f.name)[prompts] for f in fields(self)))


def encode_prompts(
    processor: HumanOmniProcessor,
    features: FeatureBatch,
    instructions: Sequence[str],
    device: torch.device,
) -> PromptBatch:
    """One prompt per clip, in the clips' order."""
    inputs = processor.encode_instructions(instructions)
    inputs |= {"vision_features": features.vision, "audio_features": features.audio}
    return PromptBatch(**{name: tensor.to(device) for name, tensor in inputs.items()})


def prefill_batch(
    model: HumanOmniForConditionalGeneration, prompts: PromptBatch, *, checkpointing: bool = False
) -> Prefix:
    """The prompts' prefix, with the gradient of connector, gate and language model.

    With `checkpointing` the backward pass makes the language model's inner states again.
    """
    embeds, mask = model.embed_prompt(
        prompts.input_ids,
        prompts.attention_mask,
        vision_features=prompts.vision_features,
        audio_features=prompts.audio_features,
        gate_input_ids=prompts.gate_input_ids,
        gate_attention_mask=prompts.gate_attention_mask,
    )
    return prefill(model.model, count_positions(embeds, mask), checkpointing=checkpointing)


def prefill_prompts(
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    features: FeatureBatch,
    instructions: Sequence[str],
    *,
    checkpointing: bool = False,
) -> Prefix:
    """One prefix per clip, in the clips' order; instructions of different lengths are left-padded.

    Carries the gradient of connector, gate and language model unless torch.no_grad is on.
    """
    device = model.lm_head.weight.device
    prompts = encode_prompts(processor, features, instructions, device)
    return prefill_batch(model, prompts, checkpointing=checkpointing)
