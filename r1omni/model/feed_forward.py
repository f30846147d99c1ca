"""A gated feed-forward whose activation is made again in the backward pass.

transformers' keeps four tensors of the feed-forward's width for the backward pass: gate, up, the
activated gate and its product with up. The activated gate is cheap to make again from the gate, so
three are kept here: results and gradients are the same to the bit. Without gradients the product is
made in place.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import SiLUActivation


def use_lean_feed_forward(language_model: Any) -> None:
    """Let a decoder's layers run their feed-forward this way, where its activation is SiLU."""
    for layer in language_model.layers:
        if is_silu(layer.mlp.act_fn):
            layer.mlp.__dict__["forward"] = partial(_feed_forward, layer.mlp)


def is_silu(activation: nn.Module) -> bool:
    """Whether a feed-forward's activation is x * sigmoid(x)."""
    return isinstance(activation, nn.SiLU | SiLUActivation)


def _feed_forward(mlp: Any, hidden: Tensor) -> Tensor:
    """down(silu(gate) * up): (…, D) -> (…, D), by the module's own projections."""
    gate, up = mlp.gate_proj(hidden), mlp.up_proj(hidden)
    if torch.is_grad_enabled():
        product = _GatedProduct.apply(gate, up)
    else:
        product = functional.silu(gate, inplace=True).mul_(up)
    states: Tensor = mlp.down_proj(product)
    return states


class _GatedProduct(torch.autograd.Function):
    """silu(gate) * up, of which gate and up alone are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return of_gate, functional.silu(gate).mul_(grad)
