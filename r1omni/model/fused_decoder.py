"""Decoding with Qwen2 on a GPU, in as few kernels as plain PyTorch has for it.

A token is bound by kernel launches there. A layer takes 15 in float32 and 16 in half precision,
where completion_cache.py, which calls transformers' modules, takes 41 and 47:

- queries, keys and values are one product, and so are gate and up projection (fused_weights.py);
- that product gives queries and keys once more with their halves rotated, so that rotary positions
  are one multiplication and two multiply-adds, which write the query, and key with value, in place;
- a group's tokens stand behind their prompt in one tensor of keys and one of values, for one
  product of scores, one softmax and one product of values;
- what a row must not see (padding, the group's other completions) gets a large negative score
  by a few more columns of queries and keys: nothing is masked in a layer;
- residuals are added by the products, in place.

Every row is thus multiplied with its whole group's tokens: `G` times the scores of its own ones.
While G*T is about the prompt's length this costs less than the launches that it saves.

Shapes: `P` prompts, `G` completions each, `N = P*G`, `L` prompt positions, `T` room for tokens,
`H` query heads, `K` key/value heads, `R = H / K`, `d` head width, `e` columns that hide, `D` width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from r1omni.model.fused_weights import FusedLayer, fuse_layers, norm_weights
from r1omni.model.products import accurate, product
from r1omni.model.shared_prefix import Prefix

COLUMNS = 8  # `e` is a multiple of it: tensor cores read 16 bytes at a time


class FusedDecoder:
    """Keys and values of prompts and of the completions decoded so far, and the fused weights.

    Memory, until it is dropped: the weights that `fuse_layers` copies; the prompts' keys and
    values once more, with those of the completions, each `d + e` wide.
    """

    def __init__(
        self, language_model: Any, prefix: Prefix, group_size: int, max_length: int
    ) -> None:
        self.length = 0
        self._embed = language_model.embed_tokens
        self._layers = fuse_layers(language_model)
        self._norm = norm_weights(language_model.norm)
        self._prefix = prefix
        self._max_length = max_length
        K, d = prefix.keys[0].shape[1], prefix.keys[0].shape[3]
        self._repeats = language_model.layers[0].self_attn.o_proj.in_features // (K * d)
        self._cos, self._sin = _rotations(language_model, prefix, max_length, self._repeats)
        self._query, self._columns = self._hiding(group_size)
        self._caches = [self._new_cache(i) for i in range(len(self._layers))]

    def step(self, tokens: Tensor) -> Tensor:
        """The normed states of one new token per completion: (P, G) -> (P, G, D)."""
        hidden: Tensor = self._embed(tokens.flatten())  # (N, D)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            attended = self._attend(layer, cache, layer.attention_norm(hidden))
            hidden = hidden.addmm_(attended, layer.out)
            gate, up = torch.mm(layer.feed_forward_norm(hidden), layer.gate_up).chunk(2, dim=-1)
            hidden = hidden.addmm_(functional.silu(gate).mul_(up), layer.down)
        self.length += 1
        return self._norm(hidden).view(*tokens.shape, -1)

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep some prompts (P',), and of each some completions (P', G')."""
        L, d, t = self._prefix.mask.shape[1], self._prefix.keys[0].shape[3], self.length
        before, after = self._query.shape[2], rows.shape[1]
        self._prefix = self._prefix.select(prompts)
        self._cos, self._sin = self._cos[:, prompts], self._sin[:, prompts]
        self._query, self._columns = self._hiding(after)
        for i, cache in enumerate(self._caches):  # one layer at a time is in memory twice
            own = cache[..., L : L + t * before, :d]
            own = own.reshape(*own.shape[:3], t, before, d).permute(1, 4, 0, 2, 3, 5)
            kept = own[prompts[:, None], rows].permute(2, 0, 3, 4, 1, 5)  # (2, P', K, t, G', d)
            self._caches[i] = self._new_cache(i)
            self._caches[i][..., L : L + t * after, :d] = kept.flatten(3, 4)

    def _attend(self, layer: FusedLayer, cache: Tensor, normed: Tensor) -> Tensor:
        """What the new tokens attend to: (N, D) -> (N, H*d)."""
        P, K, G, R, _ = self._query.shape
        d = self._prefix.keys[0].shape[3]
        low = self._prefix.mask.shape[1] + self.length * G  # where this token's keys begin
        if layer.heads_bias is None:
            heads = torch.mm(normed, layer.heads)
        else:
            heads = torch.addmm(layer.heads_bias, normed, layer.heads)
        heads = heads.view(P, G, K, 2 * R + 3, d)
        plain, rotated = heads[..., : R + 2, :], heads[..., R + 2 :, :]
        cos, sin = self._cos[self.length], self._sin[self.length]  # (P, 1, 1, R + 2, d)
        turned = plain * cos
        query = self._query[..., :d].transpose(1, 2)  # (P, G, K, R, d)
        torch.addcmul(turned[..., :R, :], rotated[..., :R, :], sin[..., :R, :], out=query)
        own = cache[..., low : low + G, :d].permute(1, 3, 2, 0, 4)  # (P, G, K, 2, d)
        both = rotated[..., R:, :].expand(P, G, K, 2, d)  # times a sine of 0 for the value
        torch.addcmul(turned[..., R:, :], both, sin[..., R:, :], out=own)
        keys, values = cache[:, :, :, : low + G].flatten(1, 2)  # (P*K, L + …, d + e) each
        scores = product(self._query.view(P * K, G * R, -1), keys.transpose(1, 2))
        weights = torch.softmax(scores, dim=-1).to(normed.dtype)
        attended = product(weights, values[..., :d]).view(P, K, G, R, d).transpose(1, 2)
        return normed.new_empty(attended.shape).copy_(attended).view(P * G, -1)

    def _hiding(self, group_size: int) -> tuple[Tensor, Tensor]:
        """Room for a layer's queries, and what a cache's keys have in the columns that hide.

        A query (P, K, G, R, d + e) has 1 in the columns of the group's other completions and in
        that of padding; a key has there (P, 1, L + T*G, e) a large negative number in its own.
        """
        mask, like, G, T = self._prefix.mask, self._prefix.keys[0], group_size, self._max_length
        P, K, L, d = like.shape
        extra = -(-(G + 1) // COLUMNS) * COLUMNS  # e
        far = -torch.finfo(like.dtype).max / 4  # below any score, and no sum with one overflows
        same = torch.eye(G, dtype=like.dtype, device=like.device)
        query = like.new_zeros(P, K, G, self._repeats, d + extra)
        query[..., d : d + G] = (1.0 - same)[:, None]
        query[..., d + G] = 1.0
        columns = like.new_zeros(P, 1, L + T * G, extra)
        columns[:, 0, :L, G] = (~mask).to(like.dtype) * far
        columns[:, 0, L:, :G] = (same * far).repeat(T, 1)
        return query, columns

    def _new_cache(self, layer: int) -> Tensor:
        """Keys and values with the prompts' in front: (2, P, K, L + T*G, d + e)."""
        key, value = self._prefix.keys[layer], self._prefix.values[layer]
        P, K, L, d = key.shape
        cache = key.new_empty(2, P, K, self._columns.shape[2], self._query.shape[-1])
        cache[0, ..., d:] = self._columns
        cache[0, :, :, :L, :d] = key
        cache[1, :, :, :L, :d] = value
        return cache


def _rotations(
    language_model: Any, prefix: Prefix, max_length: int, repeats: int
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each step for R queries, a key and a value: 2 x (T, P, 1, 1, R + 2, d).

    Queries are divided by sqrt(d) as well: here, where it adds no rounding. A value stays as it is.
    """
    steps = torch.arange(max_length, device=prefix.start.device)
    positions = prefix.start[:, None] + steps  # (P, T)
    angles = language_model.rotary_emb(prefix.last_hidden, positions)  # 2 x (P, T, d)
    tables = []
    for angle, of_value in zip(angles, (1.0, 0.0), strict=True):
        exact = angle.to(accurate(angle.dtype)).transpose(0, 1)[:, :, None, None, None]
        query = (exact * exact.shape[-1] ** -0.5).expand(-1, -1, -1, -1, repeats, -1)
        tables.append(torch.cat([query, exact, torch.full_like(exact, of_value)], dim=4))
    return tables[0], tables[1]
