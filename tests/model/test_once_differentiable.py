"""Our own gradients have no gradient of their own: to ask for one is an error, never a number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from r1omni.model.attention import shared_prefix_attention
from r1omni.model.feed_forward import _GatedProduct
from r1omni.model.head import LanguageModelHead
from r1omni.model.onednn import MIN_ROWS, use_onednn
from r1omni.model.packed_linear import has_kernel

D = 256


def attended(rows: Tensor) -> Tensor:
    query, prefix = rows[:6].view(1, 1, 6, 1, D), rows[6:12].view(1, 1, 6, D)
    own = rows[12:18].view(1, 1, 1, 6, D)
    return shared_prefix_attention(query, prefix, prefix, own, own, None)


def by_onednn(rows: Tensor) -> Tensor:
    layer = nn.Linear(D, D)
    use_onednn([layer])
    return layer(rows)


def chosen(rows: Tensor) -> Tensor:
    head = LanguageModelHead(D, 9, bias=False)
    return head(rows, torch.zeros(len(rows), dtype=torch.long))[0]


def halves(rows: Tensor) -> Tensor:
    return LanguageModelHead(D, 9, bias=False).bfloat16()(rows.bfloat16())


def gated(rows: Tensor) -> Tensor:
    return _GatedProduct.apply(rows, rows)


without_kernel = pytest.mark.skipif(not has_kernel(), reason="this torch has no oneDNN kernel")


@pytest.mark.parametrize(
    "of", [attended, pytest.param(by_onednn, marks=without_kernel), chosen, halves, gated]
)
def test_a_second_derivative_is_refused(of: Callable[[Tensor], Tensor]) -> None:
    rows = torch.randn(MIN_ROWS, D, requires_grad=True)
    (first,) = torch.autograd.grad(of(rows).square().sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
