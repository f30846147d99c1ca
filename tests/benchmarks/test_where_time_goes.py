"""The kinds of operations by torch's names, and that their times add up to the step's."""

import pytest
import torch

from benchmarks.where_time_goes import ELEMENTWISE, kind_of, measure


def test_kinds_by_name():
    assert kind_of("aten::addmm") == "matrix products"
    assert kind_of("mkldnn::_linear_pointwise") == "matrix products"
    assert kind_of("aten::exp_") == "exp and softmax"
    assert kind_of("aten::mul") == ELEMENTWISE


def test_the_parts_add_up_to_the_step_and_products_lead_where_there_are_only_they():
    a = torch.randn(300, 300)

    def step(_clock):
        for _ in range(200):
            a @ a
        return 0.0

    found = measure(step)
    seconds = found["profiled_seconds"]
    assert sum(seconds.values()) == pytest.approx(found["profiled_wall"], rel=0.1)
    assert max(seconds, key=seconds.get) == "matrix products"
