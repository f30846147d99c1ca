"""Any decoder's layers run against a shared prefix: states and gradients of repeated prompts."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model

from r1omni.model.decoder_layers import use_own_attention
from r1omni.model.shared_prefix import count_positions, extend, prefill

P, G, L, T, D = 2, 3, 6, 4, 32
SIZES = {
    "vocab_size": 50,
    "hidden_size": D,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def decoder(model: Any, config: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    built = model(config(**SIZES, **more)).double().eval()
    use_own_attention(built)
    return built


def by_repeated_prompts(model: Any, prompts: Tensor, mask: Tensor, own: Tensor) -> Tensor:
    """The completions' states from transformers' own forward over whole rows: (P, G, T, D)."""
    rows = torch.cat([prompts[:, None].expand(P, G, L, D), own], dim=2).flatten(0, 1)
    seen = torch.cat([mask[:, None].expand(P, G, L), torch.ones(P, G, T, dtype=torch.bool)], dim=2)
    seen = seen.flatten(0, 1)
    positions = (seen.long().cumsum(1) - 1).clamp(min=0)
    found = model(inputs_embeds=rows, attention_mask=seen.long(), position_ids=positions)
    states: Tensor = found.last_hidden_state[:, L:].reshape(P, G, T, D)
    return states


@pytest.mark.parametrize(
    ("model", "config"), [(Qwen2Model, Qwen2Config), (Qwen3Model, Qwen3Config)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_and_gradients_are_those_of_repeated_prompts(model, config, checkpointing):
    """Qwen3 normalises queries and keys, of which nothing here knows; the norms are float32."""
    ours = decoder(model, config)
    theirs = copy.deepcopy(ours)
    embeds = torch.randn(P, L, D, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]).bool()
    own = torch.randn(P, G, T, D, dtype=torch.float64)
    prefix = prefill(ours, count_positions(embeds, mask), checkpointing=checkpointing)
    keep = torch.ones(P, G, T, dtype=torch.bool)
    states = extend(ours, prefix, own, keep, checkpointing=checkpointing).view(P, G, T, D)
    expected = by_repeated_prompts(theirs, embeds, mask, own)
    torch.testing.assert_close(states, expected, atol=1e-10, rtol=1e-10)
    weights = torch.randn_like(states)
    for found, run in ((states, ours), (expected, theirs)):
        (found * weights).sum().backward()
        assert run.layers[0].self_attn.k_proj.weight.grad is not None
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_a_completion_begins_where_the_backbone_says():
    """M-RoPE prompts end before or after their number of tokens."""
    model = decoder(Qwen2Model, Qwen2Config)
    prompts = count_positions(torch.randn(P, L, D).double(), torch.ones(P, L))
    own, keep = torch.randn(P, G, T, D).double(), torch.ones(P, G, T, dtype=torch.bool)
    later = copy.copy(prompts)
    object.__setattr__(later, "start", prompts.start + 5)
    with torch.no_grad():
        found = extend(model, prefill(model, later), own, keep).view(P * G, T, D)
        rows = torch.cat([prompts.embeds[:, None].expand(P, G, L, D), own], dim=2).flatten(0, 1)
        positions = torch.cat([torch.arange(L), torch.arange(L + 5, L + 5 + T)])
        whole = model(inputs_embeds=rows, position_ids=positions.expand(P * G, -1))
    torch.testing.assert_close(found, whole.last_hidden_state[:, L:], atol=1e-10, rtol=1e-10)


def test_a_decoder_that_attends_otherwise_is_refused():
    prompts = count_positions(torch.randn(P, L, D).double(), torch.ones(P, L))
    model = decoder(Qwen2Model, Qwen2Config)
    model.set_attn_implementation("sdpa")  # it would ignore the prefix without an error
    with pytest.raises(ValueError, match="attends by sdpa; expected r1omni_shared_prefix"):
        prefill(model, prompts)
    sliding = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}
    with pytest.raises(ValueError, match=r"Qwen2Attention: a sliding window \(3\)"):
        prefill(decoder(Qwen2Model, Qwen2Config, **sliding), prompts)
