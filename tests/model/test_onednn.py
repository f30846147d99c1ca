"""oneDNN's products for the trained linear layers: plain torch's numbers and gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2Config, Qwen2Model

from r1omni.model import onednn
from r1omni.model.decoder_layers import use_own_attention
from r1omni.model.onednn import MIN_ROWS, linear, use_onednn
from r1omni.model.packed_linear import LARGE, packed_linears
from r1omni.model.shared_prefix import count_positions, extend, prefill

D, E = 256, 300  # a large weight


def layer(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(D, E, bias=bias, dtype=dtype)


def gradients(built: nn.Linear, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    result = built(inputs)
    (result * torch.linspace(-1.0, 1.0, E, dtype=result.dtype)).sum().backward()
    return [result.detach(), inputs.grad, *(weight.grad for weight in built.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(MIN_ROWS, D), (2, MIN_ROWS + 3, D)])
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
    inputs = torch.randn(MIN_ROWS, D, requires_grad=True)
    result = frozen(inputs)
    assert [None if x is None else x.shape for x in result.grad_fn.saved_tensors] == [
        None,
        (E, D),
    ]
    result.sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(inputs.grad, frozen.weight.sum(0).expand(MIN_ROWS, D))


def test_an_input_without_gradient():
    own = layer()
    use_onednn([own])
    inputs = torch.randn(MIN_ROWS, D)
    own(inputs).sum().backward()
    torch.testing.assert_close(own.weight.grad, inputs.sum(0).expand(E, D))


@pytest.mark.parametrize(
    ("rows", "dtype"), [(MIN_ROWS - 1, torch.float32), (300, torch.float64), (300, torch.bfloat16)]
)
def test_few_rows_and_other_precisions_are_torchs_own_to_the_bit(rows, dtype):
    own = layer(dtype=dtype)
    use_onednn([own])
    inputs = torch.randn(rows, D, dtype=dtype)
    expected = functional.linear(inputs, own.weight, own.bias)
    assert torch.equal(own(inputs), expected)
    assert torch.equal(linear(inputs, own.weight, own.bias), expected)


def test_small_weights_are_torchs_own_to_the_bit():
    small = nn.Linear(64, LARGE // 64 - 1)
    use_onednn([small])
    inputs = torch.randn(300, 64)
    assert torch.equal(small(inputs), functional.linear(inputs, small.weight, small.bias))
    assert "_Linear" not in type(small(inputs).grad_fn).__name__


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_decoder_has_the_same_states_and_gradients(monkeypatch, checkpointing):
    """Every product of every layer by oneDNN, which small layers do not have by themselves."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    plain = Qwen2Model(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
    use_own_attention(plain)
    own = copy.deepcopy(plain)
    use_onednn([own.layers])
    monkeypatch.setattr(onednn, "LARGE", 1)
    monkeypatch.setattr(onednn, "MIN_ROWS", 1)
    prompts, tokens = torch.randn(2, 6, 32), torch.randn(2, 3, 4, 32)
    states = []
    for model in (plain, own):
        embedded = count_positions(prompts, torch.ones(2, 6))
        prefix = prefill(model, embedded, checkpointing=checkpointing)
        keep = torch.ones(2, 3, 4, dtype=torch.bool)
        found = extend(model, prefix, tokens, keep, checkpointing=checkpointing)
        (found * torch.linspace(-1.0, 1.0, 32)).sum().backward()
        states.append(found.detach())
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)
    pairs = list(zip(own.layers.parameters(), plain.layers.parameters(), strict=True))
    assert sum(a.grad is not None for a, _ in pairs) == len(pairs)
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


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
