"""The feed-forward that keeps less: the same numbers as transformers' own, to the bit."""

import copy

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model

from r1omni.model.feed_forward import use_lean_feed_forward
from r1omni.model.shared_prefix import count_positions, prefill

D, F, ROWS = 16, 48, 5


def decoder(activation: str = "silu") -> Qwen2Model:
    torch.manual_seed(0)
    return Qwen2Model(
        Qwen2Config(
            vocab_size=20, hidden_size=D, intermediate_size=F, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, hidden_act=activation,
        )
    )  # fmt: skip


def run(mlp: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The result, and the gradients of the input and the three weights."""
    mlp.zero_grad(set_to_none=True)
    inputs = inputs.clone().requires_grad_()
    result = mlp(inputs)
    (result * torch.arange(D, dtype=result.dtype)).sum().backward()
    return [result.detach(), inputs.grad, *(weight.grad for weight in mlp.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_results_and_gradients_are_transformers_own_to_the_bit(dtype):
    theirs = decoder().to(dtype)
    ours = copy.deepcopy(theirs)
    use_lean_feed_forward(ours)
    inputs = torch.randn(2, ROWS, D, dtype=dtype)
    expected, found = (run(model.layers[1].mlp, inputs) for model in (theirs, ours))
    assert len(found) == 5
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(ours.layers[1].mlp(inputs), expected[0])


def test_three_tensors_of_its_width_are_kept_of_a_row_in_place_of_four():
    kept = {}
    for name, model in (("theirs", decoder()), ("ours", decoder())):
        if name == "ours":
            use_lean_feed_forward(model)
        sizes = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            if tensor.shape[-1] == F and tensor.numel() == ROWS * F:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = model.layers[0].mlp(torch.randn(ROWS, D))
        kept[name] = sum(sizes.values())
        del result
    assert kept == {"theirs": 4 * ROWS * F, "ours": 3 * ROWS * F}


def test_a_copy_uses_its_own_weights():
    """The reference is a deep copy of the policy."""
    model = decoder()
    use_lean_feed_forward(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.layers[0].mlp.up_proj.weight.zero_()
        inputs = torch.randn(ROWS, D)
        assert copied.layers[0].mlp(inputs).abs().max() == 0.0
        assert model.layers[0].mlp(inputs).abs().max() > 0.0


def test_another_activation_stays():
    model = decoder("gelu")
    use_lean_feed_forward(model)
    assert "forward" not in model.layers[0].mlp.__dict__


def test_the_last_layer_runs_for_the_last_position_alone():
    """Its other states are read by nobody; test_decoder_layers.py holds the numbers."""
    from r1omni.model.decoder_layers import use_own_attention

    model = decoder()
    use_own_attention(model)
    rows = []
    for layer in model.layers:
        layer.mlp.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape))
    prompts = count_positions(torch.randn(3, ROWS, D), torch.ones(3, ROWS))
    prefix = prefill(model, prompts)
    assert rows == [(3, ROWS, D), (3, 1, D)]
    assert [key.shape[2] for key in prefix.keys] == [ROWS, ROWS]
