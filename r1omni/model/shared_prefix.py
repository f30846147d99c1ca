"""Qwen2 over many completions that share one prompt, which runs once; they attend to it.

The same mathematics as repeating the prompt for every completion. Shapes: `P` prompts, `G`
completions each, `L` prompt positions, `T` new tokens, `M` rows, `H` query heads, `K` key/value
heads, `d` head width, `D` width. Decoding stands in completion_cache.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from r1omni.model.attention import shared_prefix_attention


@dataclass(frozen=True)
class Prefix:
    """The prompt's keys and values in every layer, and where each prompt's completion begins."""

    keys: list[Tensor]  # per layer (P, K, L, d), rotated, contiguous
    values: list[Tensor]  # per layer (P, K, L, d), contiguous
    mask: Tensor  # (P, L) True on the prompt's positions, False on padding
    lengths: Tensor  # (P,) position of the first completion token
    last_hidden: Tensor  # (P, D) normed state at the last prompt position

    def detach(self) -> "Prefix":
        """The same prefix outside the graph, for sampling."""
        return Prefix(
            [k.detach() for k in self.keys],
            [v.detach() for v in self.values],
            self.mask,
            self.lengths,
            self.last_hidden.detach(),
        )

    def select(self, prompts: Tensor) -> "Prefix":
        """Only some prompts, by their index (P',); inside the graph."""
        return Prefix(
            [k.index_select(0, prompts) for k in self.keys],
            [v.index_select(0, prompts) for v in self.values],
            self.mask.index_select(0, prompts),
            self.lengths.index_select(0, prompts),
            self.last_hidden.index_select(0, prompts),
        )


def prefill(
    language_model: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    *,
    checkpointing: bool = False,
) -> Prefix:
    """Run left-padded prompts through Qwen2 once, with gradient: (P, L, D), (P, L) -> Prefix.

    With `checkpointing` the backward pass makes each layer's inner states again: the same numbers,
    and of a layer only its input, keys and values are kept.
    """
    mask = attention_mask.bool()
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)  # (P, L)
    rotary = language_model.rotary_emb(inputs_embeds, positions)
    attention_bias = None if bool(mask.all()) else _causal_mask(mask)

    def run(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = _project(layer, hidden, rotary)  # (P, L, heads, d)
        key, value = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key,
            value,
            attn_mask=attention_bias,
            is_causal=attention_bias is None,
            enable_gqa=True,
        )
        return finish_layer(layer, hidden, attended.transpose(1, 2).flatten(2)), key, value

    hidden = inputs_embeds
    keys, values = [], []
    for layer in language_model.layers:
        hidden, key, value = _maybe_checkpointed(checkpointing, run, layer, hidden)
        keys.append(key)
        values.append(value)
    last_hidden = language_model.norm(hidden[:, -1])
    return Prefix(keys, values, mask, mask.sum(dim=1), last_hidden)


def extend(
    language_model: Any,
    prefix: Prefix,
    inputs_embeds: Tensor,
    keep: Tensor,
    *,
    checkpointing: bool = False,
) -> Tensor:
    """States of the first tokens of G completions per prompt: (P, G, T, D) -> (M, D), normed.

    Every token sees its prompt, its own completion's earlier tokens, and nothing of the others.
    `keep` (P, G, T) says which tokens are wanted; the M of them come in reading order, and only
    they pass through the linear layers. A completion's wanted tokens must be its first ones.
    `checkpointing` as in `prefill`.
    """
    P, G, T, _ = inputs_embeds.shape
    steps = torch.arange(T, device=inputs_embeds.device)
    positions = (prefix.lengths[:, None, None] + steps).expand(P, G, T)
    packing = Packing(keep)
    hidden = packing.pack(inputs_embeds)  # (M, D)
    cos, sin = language_model.rotary_emb(hidden, packing.pack(positions[..., None])[None, :, 0])
    rotary = (cos[0], sin[0])  # (M, d)
    padding = None if bool(prefix.mask.all()) else ~prefix.mask

    def run(layer: Any, hidden: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        projected = (packing.unpack(x, (P, G, T)) for x in _project(layer, hidden, rotary))
        query, key, value = projected  # (P, G, T, heads, d)
        key, value = (x.permute(0, 3, 1, 2, 4).contiguous() for x in (key, value))
        attended = shared_prefix_attention(query, prefix_key, prefix_value, key, value, padding)
        return finish_layer(layer, hidden, packing.pack(attended))

    for layer, prefix_key, prefix_value in zip(
        language_model.layers, prefix.keys, prefix.values, strict=True
    ):
        hidden = _maybe_checkpointed(checkpointing, run, layer, hidden, prefix_key, prefix_value)
    states: Tensor = language_model.norm(hidden)
    return states


class Packing:
    """Between padded completions and the rows that are wanted of them."""

    def __init__(self, keep: Tensor) -> None:
        self._index = None if bool(keep.all()) else keep.flatten().nonzero().squeeze(1)

    def pack(self, padded: Tensor) -> Tensor:
        """The wanted rows: (P, G, T, …) -> (M, …)."""
        rows = padded.flatten(0, 2)
        return rows if self._index is None else rows.index_select(0, self._index)

    def unpack(self, packed: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The padded completions, zero where nothing was wanted: (M, …) -> (P, G, T, …)."""
        P, G, T = shape
        rows = packed
        if self._index is not None:
            rows = packed.new_zeros(P * G * T, *packed.shape[1:])
            rows = rows.index_copy(0, self._index, packed)
        return rows.reshape(P, G, T, *packed.shape[1:])


def _causal_mask(mask: Tensor) -> Tensor:
    """Which position sees which: (P, L) -> (P, 1, L, L). Padding sees itself, to stay finite."""
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & mask[:, None, :]) | own)[:, None]


def _project(
    layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values: (…, D) -> (…, H, d), (…, K, d) twice."""
    normed = layer.input_layernorm(hidden)
    attention = layer.self_attn
    width = attention.head_dim
    query = attention.q_proj(normed).unflatten(-1, (-1, width))
    key = attention.k_proj(normed).unflatten(-1, (-1, width))
    value = attention.v_proj(normed).unflatten(-1, (-1, width))
    query, key = apply_rotary_pos_emb(query, key, *rotary, unsqueeze_dim=-2)
    return query, key, value


def finish_layer(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of a decoder layer: output projection, residuals, feed-forward."""
    hidden = hidden + layer.self_attn.o_proj(attended)
    fed: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + fed


def _maybe_checkpointed(checkpointing: bool, run: Any, *inputs: Any) -> Any:
    """`run(*inputs)`; with `checkpointing` its inner states are made again in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
    return run(*inputs)
