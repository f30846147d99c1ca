"""Packed weights give the plain products, and leave the modules as they were."""

import pytest
import torch
from torch import nn

from r1omni.model.head import LanguageModelHead
from r1omni.model.packed_linear import LARGE, packed_linears


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "biased": nn.Linear(300, 500),
            "head": LanguageModelHead(300, 700, bias=False),
            "small": nn.Linear(64, LARGE // 64 - 1),
        }
    )


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 8, 300])
def test_the_products_are_the_same(layers, rows):
    inputs = {name: torch.randn(2, rows, layer.in_features) for name, layer in layers.items()}
    plain = {name: layer(inputs[name]) for name, layer in layers.items()}
    with packed_linears([layers], rows) as n_packed:
        packed = {name: layer(inputs[name]) for name, layer in layers.items()}
    assert n_packed == 2  # not the small one
    for name, expected in plain.items():
        torch.testing.assert_close(packed[name], expected, rtol=1e-5, atol=1e-5)
    assert all("forward" not in layer.__dict__ for layer in layers.values())


@torch.no_grad()
def test_a_weight_that_changed_afterwards_is_seen(layers):
    inputs = torch.randn(3, 300)
    with packed_linears([layers], 3):
        before = layers["biased"](inputs)
    layers["biased"].weight.mul_(2.0)
    layers["biased"].bias.mul_(2.0)
    with packed_linears([layers], 3):
        torch.testing.assert_close(layers["biased"](inputs), 2.0 * before)
    torch.testing.assert_close(layers["biased"](inputs), 2.0 * before)


def test_other_dtypes_stay_plain(layers):
    with packed_linears([layers.double()], 1) as n_packed:
        assert n_packed == 0


def test_an_error_within_leaves_the_modules_as_they_were(layers):
    with pytest.raises(KeyError), packed_linears([layers], 1):
        raise KeyError
    assert all("forward" not in layer.__dict__ for layer in layers.values())
