"""A decoder over many completions that share one prompt: the prompt runs once, they attend to it.

The same mathematics as repeating the prompt for every completion, by the decoder's own layers
(decoder_layers.py). Shapes: `P` prompts, `G` completions each, `L` prompt positions, `T` new
tokens, `M` rows, `H` query heads, `K` key/value heads, `d` head width, `D` width. Decoding is in
completion_cache.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from r1omni.model.attention import shared_prefix_attention
from r1omni.model.decoder_layers import keys_and_values, run_layer


@dataclass(frozen=True)
class Embedded:
    """Left-padded prompts as the decoder takes them, and where everything stands.

    The backbone gives the positions: with 1-D rotary embeddings they count the tokens
    (`count_positions`), with others a completion need not begin at the number of tokens. From
    `start` on a completion's positions count its tokens, on each of the axes.
    """

    embeds: Tensor  # (P, L, D)
    mask: Tensor  # (P, L) True on the prompt's tokens, False on padding
    positions: Tensor  # (P, L), or (3, P, L) in time, height and width: as rotary_emb takes them
    start: Tensor  # (P,) position of the first completion token


def count_positions(embeds: Tensor, attention_mask: Tensor) -> Embedded:
    """Prompts whose positions count their tokens: (P, L, D), (P, L) -> Embedded."""
    mask = attention_mask.bool()
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return Embedded(embeds, mask, positions, mask.sum(dim=1))


@dataclass(frozen=True)
class Prefix:
    """The prompt's keys and values in every layer, and where each prompt's completion begins."""

    keys: list[Tensor]  # per layer (P, K, L, d), rotated, contiguous
    values: list[Tensor]  # per layer (P, K, L, d), contiguous
    mask: Tensor  # (P, L) True on the prompt's positions, False on padding
    start: Tensor  # (P,) position of the first completion token
    last_hidden: Tensor  # (P, D) normed state at the last prompt position

    def detach(self) -> "Prefix":
        """The same prefix outside the graph, for sampling."""
        return Prefix(
            [k.detach() for k in self.keys],
            [v.detach() for v in self.values],
            self.mask,
            self.start,
            self.last_hidden.detach(),
        )

    def select(self, prompts: Tensor) -> "Prefix":
        """Only some prompts, by their index (P',); inside the graph."""
        return Prefix(
            [k.index_select(0, prompts) for k in self.keys],
            [v.index_select(0, prompts) for v in self.values],
            self.mask.index_select(0, prompts),
            self.start.index_select(0, prompts),
            self.last_hidden.index_select(0, prompts),
        )


def prefill(language_model: Any, prompts: Embedded, *, checkpointing: bool = False) -> Prefix:
    """The prefix of prompts that run through the decoder once, with gradient.

    Of the last layer's states only the last position's is read, so the others are not computed:
    nothing changes in result or gradient. With `checkpointing` the backward pass computes each
    layer's inner states again: the same numbers, and of a layer only its input, keys and values are
    kept.
    """
    rotary = language_model.rotary_emb(prompts.embeds, prompts.positions)
    bias = None if bool(prompts.mask.all()) else _causal_mask(prompts.mask)

    def run(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept: list[Tensor] = []  # keys and values: results, so that checkpointing keeps them

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key, value = key.contiguous(), value.contiguous()
            kept[:] = key, value
            attended = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, is_causal=bias is None, enable_gqa=True
            )
            return attended.transpose(1, 2)

        return run_layer(layer, hidden, rotary, attend), kept[0], kept[1]

    def run_last(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = keys_and_values(layer, hidden, rotary)

        def attend(query: Tensor, _key: Tensor, _value: Tensor) -> Tensor:  # (P, H, 1, d)
            seen = None if bias is None else bias[:, :, -1:]
            attended = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=seen, enable_gqa=True
            )
            return attended.transpose(1, 2)

        own = (rotary[0][:, -1:], rotary[1][:, -1:])
        return run_layer(layer, hidden[:, -1:], own, attend)[:, 0], key, value

    hidden = prompts.embeds
    keys, values = [], []
    last = len(language_model.layers) - 1
    for i, layer in enumerate(language_model.layers):
        runs = run_last if i == last else run
        hidden, key, value = _maybe_checkpointed(checkpointing, runs, layer, hidden)
        keys.append(key)
        values.append(value)
    return Prefix(keys, values, prompts.mask, prompts.start, language_model.norm(hidden))


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
    positions = (prefix.start[:, None, None] + steps).expand(P, G, T)
    packing = Packing(keep)
    hidden = packing.pack(inputs_embeds)[None]  # (1, M, D)
    if hidden.shape[1] == 0:  # every completion is one token long
        return hidden[0]
    rotary = language_model.rotary_emb(hidden, packing.pack(positions[..., None])[None, :, 0])
    padding = None if bool(prefix.mask.all()) else ~prefix.mask

    def run(layer: Any, hidden: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        def attend(*projected: Tensor) -> Tensor:  # (1, heads, M, d) each
            rows = (packing.unpack(x[0].transpose(0, 1), (P, G, T)) for x in projected)
            query, key, value = rows  # (P, G, T, heads, d)
            key, value = (x.permute(0, 3, 1, 2, 4).contiguous() for x in (key, value))
            attended = shared_prefix_attention(query, prefix_key, prefix_value, key, value, padding)
            return packing.pack(attended)[None].view(1, hidden.shape[1], -1, query.shape[-1])

        return run_layer(layer, hidden, rotary, attend)

    for layer, prefix_key, prefix_value in zip(
        language_model.layers, prefix.keys, prefix.values, strict=True
    ):
        hidden = _maybe_checkpointed(checkpointing, run, layer, hidden, prefix_key, prefix_value)
    states: Tensor = language_model.norm(hidden[0])
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


def _maybe_checkpointed(checkpointing: bool, run: Any, *inputs: Any) -> Any:
    """`run(*inputs)`; with `checkpointing` the backward pass computes its inner states again."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
    return run(*inputs)
