"""Qwen2 over many completions that share one prompt, which runs once; they attend to it.

The same mathematics as repeating the prompt for every completion. Shapes: `P` prompts, `G`
completions each, `L` prompt positions, `T` new tokens, `S` tokens of a completion so far, `M` rows,
`H` query heads, `K` key/value heads, `R = H / K`, `d` head width, `D` width, `V` vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb


@dataclass(frozen=True)
class Prefix:
    """The prompt's keys and values in every layer, and where each prompt's completion begins."""

    keys: list[Tensor]  # per layer (P, K, L, d), rotated
    values: list[Tensor]  # per layer (P, K, L, d)
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


@dataclass
class CompletionCache:
    """Keys and values of the completions decoded so far, per layer (P, K, G, T_max, d)."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    length: int = 0


def prefill(language_model: Any, inputs_embeds: Tensor, attention_mask: Tensor) -> Prefix:
    """Run left-padded prompts through Qwen2 once, with gradient: (P, L, D), (P, L) -> Prefix."""
    mask = attention_mask.bool()
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)  # (P, L)
    rotary = language_model.rotary_emb(inputs_embeds, positions)
    attention_bias = None if bool(mask.all()) else _causal_mask(mask)
    hidden = inputs_embeds
    keys, values = [], []
    for layer in language_model.layers:
        query, key, value = _project(layer, hidden, rotary)  # (P, L, heads, d)
        key, value = key.transpose(1, 2), value.transpose(1, 2)  # (P, K, L, d)
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key,
            value,
            attn_mask=attention_bias,
            is_causal=attention_bias is None,
            enable_gqa=True,
        )
        hidden = _finish(layer, hidden, attended.transpose(1, 2).flatten(2))
        keys.append(key)
        values.append(value)
    last_hidden = language_model.norm(hidden[:, -1])
    return Prefix(keys, values, mask, mask.sum(dim=1), last_hidden)


def extend(
    language_model: Any,
    prefix: Prefix,
    inputs_embeds: Tensor,
    *,
    keep: Tensor | None = None,
    cache: CompletionCache | None = None,
) -> Tensor:
    """States of the next tokens of G completions per prompt: (P, G, T, D) -> (M, D), normed.

    Every token sees its prompt, its own completion's earlier tokens, and nothing of the others.
    `keep` (P, G, T) says which tokens are wanted; the M of them (all without `keep`) come in
    reading order, and only they pass through the linear layers. A completion's wanted tokens must
    be its first ones. With a `cache` (decoding) keys and values are appended to it.
    """
    P, G, T, _ = inputs_embeds.shape
    past = cache.length if cache is not None else 0
    steps = torch.arange(past, past + T, device=inputs_embeds.device)
    positions = (prefix.lengths[:, None, None] + steps).expand(P, G, T)
    packing = Packing(keep)
    hidden = packing.pack(inputs_embeds)  # (M, D)
    rotary = language_model.rotary_emb(hidden, packing.pack(positions[..., None])[None, :, 0])
    rotary = (rotary[0][0], rotary[1][0])  # (M, d)
    padding = None if bool(prefix.mask.all()) else ~prefix.mask[:, None, None, :]  # (P, 1, 1, L)
    future = torch.ones(T, past + T, dtype=torch.bool, device=hidden.device).triu(past + 1)
    for i, layer in enumerate(language_model.layers):
        projected = (packing.unpack(x, (P, G, T)) for x in _project(layer, hidden, rotary))
        query, key, value = projected  # (P, G, T, heads, d)
        key, value = key.permute(0, 3, 1, 2, 4), value.permute(0, 3, 1, 2, 4)  # (P, K, G, T, d)
        if cache is not None:
            cache.keys[i][:, :, :, past : past + T] = key
            cache.values[i][:, :, :, past : past + T] = value
            key = cache.keys[i][:, :, :, : past + T]
            value = cache.values[i][:, :, :, : past + T]
        attended = _attend(query, prefix.keys[i], prefix.values[i], key, value, padding, future)
        hidden = _finish(layer, hidden, packing.pack(attended))
    if cache is not None:
        cache.length = past + T
    states: Tensor = language_model.norm(hidden)
    return states


class Packing:
    """Between padded completions and the rows that are wanted of them."""

    def __init__(self, keep: Tensor | None) -> None:
        self._index = None if keep is None else keep.flatten().nonzero().squeeze(1)

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


def empty_cache(prefix: Prefix, group_size: int, max_length: int) -> CompletionCache:
    """Room for `max_length` tokens of `group_size` completions per prompt."""
    shapes = [(*key.shape[:2], group_size, max_length, key.shape[-1]) for key in prefix.keys]
    return CompletionCache(
        [key.new_empty(shape) for key, shape in zip(prefix.keys, shapes, strict=True)],
        [value.new_empty(shape) for value, shape in zip(prefix.values, shapes, strict=True)],
    )


def keep_rows(cache: CompletionCache, rows: Tensor) -> None:
    """Keep only some completions of every prompt in the cache: `rows` is (P, G') of 0..G-1."""
    for tensors in (cache.keys, cache.values):
        for i, tensor in enumerate(tensors):  # (P, K, G, T_max, d)
            P, K, _, T, d = tensor.shape
            index = rows[:, None, :, None, None].expand(P, K, rows.shape[1], T, d)
            tensors[i] = tensor.gather(2, index)


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


def _attend(
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    future: Tensor,
) -> Tensor:
    """One softmax over prompt and own completion: (P, G, T, H, d) -> (P, G, T, H*d).

    The two parts are scored apart (the prompt's keys are never repeated) and normalised together,
    in float32.
    """
    P, G, T, H, d = query.shape
    K, L, S = prefix_key.shape[1], prefix_key.shape[2], key.shape[3]
    R = H // K
    # rows of one key/value head together: (P, K, G, T, R, d)
    rows = (query * d**-0.5).reshape(P, G, T, K, R, d).permute(0, 3, 1, 2, 4, 5)
    to_prefix = rows.reshape(P, K, G * T * R, d) @ prefix_key.transpose(-1, -2)
    if padding is not None:
        to_prefix = to_prefix.masked_fill(padding, float("-inf"))
    to_own = rows.reshape(P, K, G, T * R, d) @ key.transpose(-1, -2)  # (P, K, G, T*R, S)
    if T > 1:
        to_own = to_own.masked_fill(future.repeat_interleave(R, dim=0), float("-inf"))
    scores = torch.cat([to_prefix, to_own.reshape(P, K, G * T * R, S)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    from_prefix, from_own = weights[..., :L], weights[..., L:]
    attended = from_prefix @ prefix_value + (from_own.reshape(P, K, G, T * R, S) @ value).reshape(
        P, K, G * T * R, d
    )
    attended = attended.reshape(P, K, G, T, R, d).permute(0, 2, 3, 1, 4, 5)
    return attended.reshape(P, G, T, H * d)


def _finish(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of a decoder layer: output projection, residuals, feed-forward."""
    hidden = hidden + layer.self_attn.o_proj(attended)
    fed: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + fed
