"""A language model's own decoder layers, run with an attention of ours.

transformers lets an attention function be registered by name. The one registered here calls the
function that a caller passes to the layer, and transformers' sdpa without one. So projections,
rotary positions, norms and feed-forward are transformers' own, for every model whose layers take
keyword arguments through to their attention.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "r1omni_shared_prefix"  # the function's name in transformers' registry

# (B, H, M, d), (B, K, M, d), (B, K, M, d) -> (B, M, H, d); queries and keys are rotated
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def use_own_attention(language_model: Any) -> None:
    """Let a decoder's layers attend through the registered function."""
    language_model.config._attn_implementation = ATTENTION


def run_layer(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    """The layer's output for `hidden` (B, M, D), its tokens attending by `attend`.

    `rotary`: cosine and sine, (B, M, d) or broadcast to it.
    Raises ValueError if the decoder attends by another function, which would ignore `attend`, or if
    its attention has a sliding window, dropout or a scale other than 1/sqrt(d).
    """
    _check_attention(layer)
    states: Tensor = layer(hidden, position_embeddings=rotary, attend=attend)
    return states


def keys_and_values(
    layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The layer's rotated keys and its values for `hidden` (B, M, D): 2 x (B, K, M, d), contiguous.

    For a last layer, of whose states few are read: feed-forward and attention need not run for the
    others. The layer's own attention module makes them, without attending to anything; what its
    output projection makes of the queries is dropped. Raises ValueError as `run_layer`.
    """
    _check_attention(layer)
    kept: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept[:] = key.contiguous(), value.contiguous()
        return query.transpose(1, 2)

    normed = layer.input_layernorm(hidden)
    layer.self_attn(normed, position_embeddings=rotary, attention_mask=None, attend=attend)
    return kept[0], kept[1]


def _check_attention(layer: Any) -> None:
    name = layer.self_attn.config._attn_implementation
    if name != ATTENTION:
        raise ValueError(f"the language model attends by {name}; expected {ATTENTION}")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attend: Attend | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """`attend`'s result, or without it that of transformers' sdpa."""
    if attend is None:
        inputs = (query, key, value, attention_mask)
        attended, _ = sdpa_attention_forward(
            module, *inputs, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    if sliding_window is not None or dropout or scaling not in (None, query.shape[-1] ** -0.5):
        raise ValueError(
            f"{type(module).__name__}: a sliding window ({sliding_window}), dropout ({dropout}) or "
            f"a scale of its own ({scaling}) is not supported"
        )
    return attend(query, key, value), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
