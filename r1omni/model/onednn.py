"""Products by oneDNN in place of MKL: float32 on a CPU, with gradient.

PyTorch multiplies float32 matrices by MKL. For a decoder's shapes with hundreds of rows oneDNN
takes 5 to 15 % less time on an AMD EPYC, for a head's a quarter less. It adds the same products in
another order. A weight's gradient stays MKL's, which is as fast there.

oneDNN compiles a kernel for each new number of rows, about a millisecond: in the embedded default
that is what its small products would save, and GRPO has another number of rows in every step. So
small weights stay with MKL.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from r1omni.model.packed_linear import LARGE, has_kernel

MIN_ROWS = 128  # with fewer, starting its kernel costs what it saves


def use_onednn(modules: Iterable[nn.Module]) -> None:
    """Let the plain linear layers inside of `modules` multiply this way where it is possible."""
    for module in modules:
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__dict__["forward"] = partial(_linear, layer)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(…, D), (E, D), (E,) -> (…, E), as `functional.linear`; no gradient."""
    if not _is_possible(inputs, weight):
        return functional.linear(inputs, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


def _linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    if not _is_possible(inputs, layer.weight):
        return functional.linear(inputs, layer.weight, layer.bias)
    result: Tensor = _Linear.apply(inputs, layer.weight, layer.bias)
    return result


def _is_possible(inputs: Tensor, weight: Tensor) -> bool:
    return (
        inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() >= MIN_ROWS * inputs.shape[-1]
        and weight.numel() >= LARGE
        and _HAS_KERNEL
    )


class _Linear(torch.autograd.Function):
    """inputs W^T + bias, and its gradients: (…, D) -> (…, E)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs if of_weight else None, weight)  # frozen under an adapter
        return linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            linear(grad, weight.t()) if of_inputs else None,
            rows.t() @ inputs.flatten(0, -2) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


_HAS_KERNEL = has_kernel()
