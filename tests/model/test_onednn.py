"""oneDNN's products for the trained linear layers: plain torch's numbers and gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from r1omni.model.onednn import MIN_ROWS, linear, use_onednn
from r1omni.model.packed_linear import packed_linears


def layer(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias, dtype=dtype)


def gradients(built: nn.Linear, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    result = built(inputs)
    (result * torch.linspace(-1.0, 1.0, 80, dtype=result.dtype)).sum().backward()
    return [result.detach(), inputs.grad, *(weight.grad for weight in built.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(MIN_ROWS, 48), (2, MIN_ROWS + 3, 48)])
def test_result_and_gradients_are_those_of_torch(bias, shape):
    plain, own = layer(bias=bias), layer(bias=bias)
    use_onednn([own])
    inputs = torch.randn(shape)
    exact = gradients(layer(bias=bias).double(), inputs.double())
    for found, usual, truth in zip(
        gradients(own, inputs), gradients(plain, inputs), exact, strict=True
    ):
        error = (found.double() - truth).abs().max()
        assert error <= 3 * (usual.double() - truth).abs().max() + 1e-6


def test_frozen_weights_get_no_gradient_and_inputs_do():
    """As under LoRA, where the base is frozen: then the input is not kept, either."""
    frozen = layer().requires_grad_(False)
    use_onednn([frozen])
    inputs = torch.randn(MIN_ROWS, 48, requires_grad=True)
    result = frozen(inputs)
    assert [None if x is None else x.shape for x in result.grad_fn.saved_tensors] == [
        None,
        (80, 48),
    ]
    result.sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(inputs.grad, frozen.weight.sum(0).expand(MIN_ROWS, 48))


def test_an_input_without_gradient():
    own = layer()
    use_onednn([own])
    inputs = torch.randn(MIN_ROWS, 48)
    own(inputs).sum().backward()
    torch.testing.assert_close(own.weight.grad, inputs.sum(0).expand(80, 48))


@pytest.mark.parametrize(
    ("rows", "dtype"), [(MIN_ROWS - 1, torch.float32), (300, torch.float64), (300, torch.bfloat16)]
)
def test_few_rows_and_other_precisions_are_torchs_own_to_the_bit(rows, dtype):
    own = layer(dtype=dtype)
    use_onednn([own])
    inputs = torch.randn(rows, 48, dtype=dtype)
    expected = functional.linear(inputs, own.weight, own.bias)
    assert torch.equal(own(inputs), expected)
    assert torch.equal(linear(inputs, own.weight, own.bias), expected)


def test_a_copy_uses_its_own_weights_and_packing_gives_the_layer_back():
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    use_onednn([model])
    copied = copy.deepcopy(model)
    inputs = torch.randn(MIN_ROWS, 256)
    with torch.no_grad():
        before = model(inputs)
        copied[0].weight.zero_()
        copied[0].bias.zero_()
        assert torch.equal(copied(inputs), copied[1].bias.expand(MIN_ROWS, 256))
        with packed_linears([model], rows=MIN_ROWS) as packed:
            assert packed == 2
            torch.testing.assert_close(model(inputs), before)
    result = model(inputs)
    assert torch.equal(result, before)
    assert "_Linear" in type(result.grad_fn).__name__  # oneDNN's again, not torch's
