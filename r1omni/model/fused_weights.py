"""A Qwen2 decoder's weights side by side, so that decoding on a GPU launches fewer kernels.

Shapes: `D` width, `H` query heads, `K` key/value heads, `R = H / K`, `d` head width, `I` width of
the feed-forward.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from r1omni.model.feed_forward import is_silu


@dataclass(frozen=True)
class NormWeights:
    """An RMSNorm's weight (D,) and epsilon."""

    weight: Tensor
    eps: float

    def __call__(self, hidden: Tensor) -> Tensor:
        """The normed states (…, D), in one kernel; sums in float32."""
        return nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True)
class FusedLayer:
    """One decoder layer's weights, transposed as `mm` takes them."""

    attention_norm: NormWeights
    heads: Tensor  # (D, K*(2R + 3)*d): for each key/value head R queries, key and value, then
    heads_bias: Tensor | None  # the queries and the key once more with their halves rotated
    out: Tensor  # (H*d, D)
    feed_forward_norm: NormWeights
    gate_up: Tensor  # (D, 2*I)
    down: Tensor  # (I, D)


def can_fuse(language_model: Any) -> bool:
    """Whether every layer is a plain Qwen2 layer whose weights are whole.

    Not with an adapter, whose linear layers are not plain, nor with partitioned weights (ZeRO-3).
    """
    return all(map(_is_plain, language_model.layers))


def fuse_layers(language_model: Any) -> list[FusedLayer]:
    """Copies of the layers' projections side by side, for weights that do not change meanwhile.

    Two of a layer's products read copies: the heads', and the gate's with the up projection. At
    the published 0.5B that is 0.51 GB in bfloat16 (24 layers of 10.7 million numbers), at 7B
    9.4 GB. Other weights are views.
    """
    return [_fuse(layer) for layer in language_model.layers]


def count_fused(language_model: Any) -> int:
    """How many numbers `fuse_layers` copies."""
    return sum(map(_count_copied, language_model.layers))


def norm_weights(norm: Any) -> NormWeights:
    """Of a Qwen2RMSNorm."""
    return NormWeights(norm.weight.detach(), norm.variance_epsilon)


def _fuse(layer: Any) -> FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    d = attention.head_dim
    biased = projections[0].bias is not None
    bias = _heads([p.bias.detach()[:, None] for p in projections], d)[:, 0] if biased else None
    return FusedLayer(
        norm_weights(layer.input_layernorm),
        _heads([p.weight.detach() for p in projections], d).t(),
        bias,
        attention.o_proj.weight.detach().t(),
        norm_weights(layer.post_attention_layernorm),
        torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]).t(),
        mlp.down_proj.weight.detach().t(),
    )


def _heads(rows: Iterable[Tensor], d: int) -> Tensor:
    """The rows of q, k and v by key/value head: (H*d, D), 2 x (K*d, D) -> (K*(2R + 3)*d, D)."""
    q, k, v = (x.view(-1, d, x.shape[-1]) for x in rows)
    K = len(k)
    q, k, v = q.view(K, -1, *q.shape[1:]), k[:, None], v[:, None]  # (K, R, d, D), 2 x (K, 1, d, D)
    parts = [q, k, v, _rotate_half(q), _rotate_half(k)]
    return torch.cat(parts, dim=1).flatten(0, 2)


def _rotate_half(rows: Tensor) -> Tensor:
    """What rotary positions multiply by the sine, as rows of a weight: (K, R, d, D), the same."""
    first, second = rows.chunk(2, dim=2)
    return torch.cat([-second, first], dim=2)


def _count_copied(layer: Any) -> int:
    attention, mlp = layer.self_attn, layer.mlp
    twice = attention.q_proj.weight.numel() + attention.k_proj.weight.numel()
    gate_up = mlp.gate_proj.weight.numel() + mlp.up_proj.weight.numel()
    return int(2 * twice + attention.v_proj.weight.numel() + gate_up)


def _is_plain(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    others = [attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return (
        all(map(_is_whole_linear, [*projections, *others]))
        and len({x.bias is None for x in projections}) == 1
        and all(x.bias is None for x in others)
        and is_silu(mlp.act_fn)
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
        and not hasattr(attention, "q_norm")
    )


def _is_whole_linear(layer: Any) -> bool:
    size = (layer.out_features, layer.in_features) if type(layer) is nn.Linear else None
    return size is not None and layer.weight.shape == size
