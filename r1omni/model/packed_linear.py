"""Linear layers with their weights laid out for oneDNN, on a CPU and without gradients.

Decoding reads every weight of the language model for a handful of rows: there a product with a
weight that was reordered once takes about half of the time of a plain one, with many rows about
three quarters (AMD EPYC, float32). It adds the same products in another order.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

LARGE = 2**16  # elements of a weight; smaller ones stay in the caches anyway


@contextmanager
def packed_linears(modules: Iterable[nn.Module], rows: int) -> Iterator[int]:
    """Within, the large float32 linear layers inside of `modules` use a reordered copy.

    `rows`: about how many go through them at once. Tells how many layers do so: none on a GPU, or
    where this build of torch has no such kernel. For no_grad alone, and weights must not change
    within; costs their memory once more.
    """
    packed: list[nn.Module] = []
    if has_kernel():
        for module in modules:
            packed += [layer for layer in module.modules() if _is_large(layer)]
    own = [layer.__dict__.get("forward") for layer in packed]  # onednn.py's
    try:
        for layer in packed:
            weight = layer.get_parameter("weight").detach()
            reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            bias = getattr(layer, "bias", None)
            layer.__dict__["forward"] = partial(_product, reordered, bias)
        yield len(packed)
    finally:
        for layer, forward in zip(packed, own, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


def _product(weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


def _is_large(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Linear):
        return False
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE


def has_kernel() -> bool:
    """Whether this build of torch multiplies float32 by oneDNN."""
    ops = torch.ops.mkldnn
    known = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
    return known and bool(torch._C._has_mkldnn)
