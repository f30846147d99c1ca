"""From clips' features and instructions to a prefilled prompt: the only road, for every stage."""

from collections.abc import Sequence

import torch

from r1omni.model.feature_store import FeatureBatch
from r1omni.model.modelling import HumanOmniForConditionalGeneration
from r1omni.model.processor import HumanOmniProcessor
from r1omni.model.shared_prefix import Prefix, prefill


def prefill_prompts(
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    features: FeatureBatch,
    instructions: Sequence[str],
) -> Prefix:
    """One prefix per clip, in the clips' order; instructions of different lengths are left-padded.

    Carries the gradient of connector, gate and language model unless torch.no_grad is on.
    """
    device = model.lm_head.weight.device
    prompts = [processor.encode_prompt(text) for text in instructions]
    gates = [processor.encode_gate(text) for text in instructions]
    input_ids, attention_mask = _left_padded(prompts, processor.pad_token_id)
    gate_ids, gate_mask = _right_padded([ids for ids, _ in gates])
    embeds, mask = model.embed_prompt(
        input_ids.to(device),
        attention_mask.to(device),
        vision_features=features.vision.to(device),
        audio_features=features.audio.to(device),
        gate_input_ids=gate_ids.to(device),
        gate_attention_mask=gate_mask.to(device),
    )
    return prefill(model.model, embeds, mask)


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _right_padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([list(row) + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask
