"""Decoding with Qwen2: one more token for every running completion, against prompts that ran once.

The layers are written out here, since decoding is bound by kernel launches. In float32 the log
probabilities of transformers' own layers are within 2e-6 of these.

Shapes: `P` prompts, `G` completions each, `L` prompt positions, `T` room for tokens, `H` query
heads, `K` key/value heads, `R = H / K`, `d` head width, `D` width.
"""

from typing import Any

import torch
from torch import Tensor

from r1omni.model.attention import scale_query
from r1omni.model.products import product
from r1omni.model.shared_prefix import Prefix


class CompletionCache:
    """Keys and values of the completions decoded so far, beside those of their prompts."""

    def __init__(
        self, language_model: Any, prefix: Prefix, group_size: int, max_length: int
    ) -> None:
        P, K, _, d = prefix.keys[0].shape
        self.length = 0
        self._model = language_model
        self._prefix = prefix
        shape = (P, K, group_size, max_length, d)
        self._keys = [key.new_empty(shape) for key in prefix.keys]
        self._values = [value.new_empty(shape) for value in prefix.values]
        self._padding = None if bool(prefix.mask.all()) else ~prefix.mask[:, None, None, :]
        steps = torch.arange(max_length, device=prefix.start.device)
        positions = prefix.start[:, None] + steps  # (P, T)
        cos, sin = language_model.rotary_emb(prefix.last_hidden, positions)  # (P, T, d)
        # x * cos + rotate_half(x) * sin, with the signs of rotate_half moved to the sine
        signs = torch.cat([sin.new_full((d // 2,), -1.0), sin.new_ones(d // 2)])
        self._cos, self._sin = cos, sin * signs

    def step(self, inputs_embeds: Tensor) -> Tensor:
        """The normed states of one new token per completion: (P, G, D) -> (P, G, D)."""
        cos = self._cos[:, self.length, None, None]  # (P, 1, 1, d)
        sin = self._sin[:, self.length, None, None]
        hidden = inputs_embeds
        for i, layer in enumerate(self._model.layers):
            attended = self._attend(i, layer, layer.input_layernorm(hidden), cos, sin)
            hidden = hidden + layer.self_attn.o_proj(attended)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        self.length += 1
        states: Tensor = self._model.norm(hidden)
        return states

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep some prompts (P',), and of each some completions (P', G')."""
        if len(prompts) < len(self._cos):
            self._prefix = self._prefix.select(prompts)
            self._cos, self._sin = self._cos[prompts], self._sin[prompts]
            self._padding = None if self._padding is None else self._padding[prompts]
        for tensors in (self._keys, self._values):
            for i, tensor in enumerate(tensors):  # (P, K, G, T, d)
                kept = tensor if len(prompts) == len(tensor) else tensor[prompts]
                P, K, _, T, d = kept.shape
                index = rows[:, None, :, None, None].expand(P, K, rows.shape[1], T, d)
                tensors[i] = kept.gather(2, index)

    def _attend(self, i: int, layer: Any, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What the new tokens attend to in layer `i`: (P, G, D) -> (P, G, H*d)."""
        P, G, _ = normed.shape
        attention = layer.self_attn
        d = attention.head_dim
        key_values = self._prefix.keys[i], self._prefix.values[i]
        K = key_values[0].shape[1]
        heads = torch.cat([attention.q_proj(normed), attention.k_proj(normed)], dim=-1)
        heads = heads.view(P, G, -1, d)  # (P, G, H + K, d)
        heads = (heads * cos).addcmul_(heads.roll(d // 2, -1), sin)
        seen = slice(0, self.length + 1)
        self._keys[i][:, :, :, self.length] = heads[:, :, -K:].transpose(1, 2)
        value = attention.v_proj(normed).view(P, G, K, d).transpose(1, 2)
        self._values[i][:, :, :, self.length] = value
        query, scale = scale_query(heads[:, :, :-K], d)
        query = query.reshape(P, G, K, -1, d).transpose(1, 2)
        query = query.contiguous()  # (P, K, G, R, d)
        R, L = query.shape[3], key_values[0].shape[2]
        to_prefix = product(query.flatten(2, 3), key_values[0].transpose(-1, -2))  # (P, K, G*R, L)
        if self._padding is not None:
            to_prefix = to_prefix.masked_fill_(self._padding, float("-inf"))
        own_keys = self._keys[i][:, :, :, seen].transpose(-1, -2)
        to_own = product(query, own_keys)  # (P, K, G, R, length)
        scores = torch.cat([to_prefix, to_own.flatten(2, 3)], dim=-1)
        scores = scores if scale == 1.0 else scores.mul_(scale)
        weights = torch.softmax(scores, dim=-1).to(normed.dtype)
        attended = product(weights[..., :L], key_values[1]).view(P, K, G, R, d)
        own_weights = weights[..., L:].reshape(P, K, G, R, -1)
        attended += product(own_weights, self._values[i][:, :, :, seen])
        return attended.to(normed.dtype).transpose(1, 2).reshape(P, G, -1)
