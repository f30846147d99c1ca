"""Matrix products of half-precision tensors that are never rounded to half precision.

Attention scores, their gradients and logits lose what distinguishes them when they are rounded
before the softmax: bfloat16 has eight bits, and scores beyond 128 would be whole numbers.
"""

import torch
from torch import Tensor


def accurate(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where it is that already."""
    return torch.promote_types(dtype, torch.float32)


def product(a: Tensor, b: Tensor) -> Tensor:
    """(…, n, k) @ (…, k, m) -> (…, n, m), added up and given in float32 at least; no gradient.

    The leading dimensions are the same in both. From float32 on it is `a @ b`. A GPU multiplies
    half precision as it is and keeps the sums; elsewhere both are copied to float32.
    """
    if a.dtype == accurate(a.dtype):
        return a @ b
    if a.device.type != "cuda":
        return a.float() @ b.float()
    if a.ndim == 2:
        return torch.mm(a, b, out_dtype=torch.float32)
    flat = torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
    return flat.view(*a.shape[:-1], b.shape[-1])
