"""What a decoded token asks of a GPU: kernel launches and waits, counted without one."""

from types import SimpleNamespace

import pytest
import torch
from launches import Launches
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

from r1omni.model import sampling, windows
from r1omni.model.head import LanguageModelHead
from r1omni.model.sampling import decode
from r1omni.model.shared_prefix import Prefix
from r1omni.model.windows import WINDOW

P, L = 2, 37
FEW, ALL = 3, 24  # layers: each costs the same, so that one case is counted with all of them


@pytest.fixture
def fake_cuda():
    """Fake tensors are made on a CUDA device, by whoever names none."""
    kind = torch.get_default_dtype()
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        yield
    torch.set_default_dtype(kind)


def counted(dtype, tokens, *, group_size=4, temperature=0.7, layers=FEW):
    """The launches and waits of `tokens` tokens, with all that a call begins with."""
    torch.set_default_dtype(dtype)
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    head = LanguageModelHead(64, 320, bias=False)
    model = SimpleNamespace(model=Qwen2Model(config), lm_head=head)
    states = [torch.empty(P, 2, L, 16) for _ in range(layers)]
    mask, start = torch.ones(P, L, dtype=torch.bool), torch.ones(P, dtype=torch.long)
    prefix = Prefix(states, states, mask, start, torch.empty(P, 64))
    draws = torch.empty(P, group_size, tokens, dtype=torch.float64) if temperature else None
    with Launches(told=10**4) as seen:  # all of the rows are still running
        decode(
            model,
            prefix,
            group_size=group_size,
            max_new_tokens=tokens,
            eos_token_id=1,
            temperature=temperature,
            draws=draws,
        )
    return seen


def a_token(dtype, **how):
    """The launches and waits of one more token between two looks, not the first one."""
    first, second = (counted(dtype, tokens, **how) for tokens in (2, 3))
    return (x.total() - y.total() for x, y in zip(*map(totals, (second, first)), strict=True))


def totals(seen):
    return seen.launched, seen.waits


# Worked by hand. A layer: norm, heads, x cos, + x' sin of the query and of key with value, scores,
# softmax, values, their order, out, norm, gate and up, silu, times up, down: 15; in half precision
# the softmax is rounded: 16. A token: embedding, norm, head, / temperature, log_softmax, exp,
# cumsum (2), times the draw, searchsorted, clamp, gather: 12; greedy 6 (no division, argmax).
@pytest.mark.parametrize(
    ("dtype", "temperature", "layers", "expected"),
    [
        (torch.float32, 0.7, FEW, FEW * 15 + 12),
        (torch.float32, 0.0, FEW, FEW * 15 + 6),
        (torch.bfloat16, 0.7, FEW, FEW * 16 + 12),
        (torch.bfloat16, 0.0, FEW, FEW * 16 + 6),
        (torch.bfloat16, 0.7, ALL, 396),  # of 400, of which a look takes one
    ],
)
def test_a_token_launches_few_kernels(fake_cuda, dtype, temperature, layers, expected):
    assert tuple(a_token(dtype, temperature=temperature, layers=layers)) == (expected, 0)
    assert expected <= 400 - 1


def test_a_look_costs_a_launch_a_token_and_is_the_hosts_only_wait(fake_cuda, monkeypatch):
    """With a window of two tokens, two more are two steps and a look."""
    monkeypatch.setattr(windows, "WINDOW", 2)
    first, second = (counted(torch.bfloat16, tokens) for tokens in (2, 4))
    steps = 2 * (FEW * 16 + 12)
    assert second.launched.total() - first.launched.total() - steps <= WINDOW == 16
    assert second.waits["aten._local_scalar_dense.default"] == 2 + 1
    assert second.waits - first.waits == {"aten._local_scalar_dense.default": 2}


def test_a_layer_that_is_not_plain_launches_as_many_as_before(fake_cuda, monkeypatch):
    """What the CPU runs, and a GPU with an adapter: the counter can tell."""
    monkeypatch.setattr(sampling, "can_fuse", lambda _: False)
    launched, waited = a_token(torch.bfloat16)
    more, waited_too = a_token(torch.bfloat16, layers=FEW + 1)
    assert more - launched > 35
    assert waited == waited_too == 3
