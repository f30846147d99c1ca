"""The head's chosen log probabilities against the plain head's, and what it never makes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from r1omni.model import head
from r1omni.model.head import LanguageModelHead

M, D, V = 23, 6, 50


class Sizes(TorchDispatchMode):
    """Notes how many elements each tensor has that any operation gives, forward or backward."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen |= {leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}
        return out


def build(dtype, m=M, d=D, v=V):
    torch.manual_seed(0)
    layer = LanguageModelHead(d, v, bias=False, dtype=dtype)
    hidden = (3.0 * torch.randn(m, d, dtype=dtype)).requires_grad_()
    return layer, hidden, torch.randint(v, (m,)), torch.randn(m, dtype=dtype)


def plain(layer, hidden, chosen, temperature):
    """All logits at once."""
    logprobs = (layer(hidden) / temperature).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, chosen[:, None]).squeeze(-1), entropy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("budget", "fewest"),
    [(2**21, 128), (2 * V, 1), (35, 5), (7, 1), (1, 1)],
    ids=["one chunk", "two positions", "5 x 7", "1 x 7", "one logit"],
)
def test_logprobs_entropies_and_gradients_are_the_plain_heads(
    monkeypatch, budget, fewest, temperature
):
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", budget)
    monkeypatch.setitem(head.MIN_POSITIONS, "cpu", fewest)
    layer, hidden, chosen, upstream = build(torch.float64)
    found = []
    for way in (layer, lambda *asked: plain(layer, *asked)):
        logprobs, entropy = way(hidden, chosen, temperature)
        gradients = torch.autograd.grad((logprobs * upstream).sum(), [hidden, layer.weight])
        found.append([logprobs, entropy, *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_frozen_weight_and_a_frozen_state_get_no_gradient():
    layer, hidden, chosen, upstream = build(torch.float64)
    layer.weight.requires_grad_(False)
    logprobs, _ = layer(hidden, chosen)
    (logprobs * upstream).sum().backward()
    assert layer.weight.grad is None
    only_states = hidden.grad
    layer.weight.requires_grad_(True)
    logprobs, _ = layer(hidden.detach(), chosen)
    (logprobs * upstream).sum().backward()
    expected = torch.autograd.grad(
        (plain(layer, hidden, chosen, 1.0)[0] * upstream).sum(), [hidden, layer.weight]
    )
    torch.testing.assert_close([only_states, layer.weight.grad], list(expected))


def test_half_precision_adds_chunks_in_float32(monkeypatch):
    """1,000 chunks of one position each: bfloat16 sums would stop growing at 2^8 steps."""
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", V)
    monkeypatch.setitem(head.MIN_POSITIONS, "cpu", 1)
    layer, hidden, chosen, _ = build(torch.bfloat16, m=1000)
    with torch.no_grad():
        hidden.fill_(1.0)  # all positions alike: every chunk adds the same
    logprobs, _ = layer(hidden, chosen * 0)
    logprobs.sum().backward()
    ours = layer.weight.grad.double()
    exact = layer.double()
    exact.weight.grad = None
    plain(exact, hidden.detach().double(), chosen * 0, 1.0)[0].sum().backward()
    assert float((ours - exact.weight.grad).norm() / exact.weight.grad.norm()) < 0.01


@pytest.mark.parametrize(
    ("m", "d", "v"),
    [(1024, 64, 16384), (1200, 8, 151936)],
    ids=["the benchmark's mid size", "the real vocabulary"],
)
def test_no_tensor_as_large_as_all_logits_is_ever_made(m, d, v):
    """The completions of one clip, forward and backward: never more than a chunk of logits."""
    layer, hidden, chosen, upstream = build(torch.float32, m, d, v)
    kept = []

    def note(tensor):
        kept.append(tensor.numel())
        return tensor

    with Sizes() as sizes, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logprobs, _ = layer(hidden, chosen)
        (logprobs * upstream).sum().backward()
    assert m * v >= 8 * 2**21
    assert max(sizes.seen) <= 2**21  # weight and states, narrow here, are smaller
    assert sum(kept) <= d * (m + v) + 4 * m  # nor is it kept in pieces for the backward pass


def test_the_backward_pass_makes_the_logits_once_more():
    """Four products of M x D x V instead of three: what keeping no logits costs."""
    layer, hidden, chosen, upstream = build(torch.float32)
    with FlopCounterMode(display=False) as plainly:
        (plain(layer, hidden, chosen, 1.0)[0] * upstream).sum().backward()

    def added_product(_into, a, b, **_):
        return 2 * a[0] * a[1] * b[1]

    in_place = {torch.ops.aten.addmm_: added_product}  # torch counts none for it
    with FlopCounterMode(display=False, custom_mapping=in_place) as in_chunks:
        (layer(hidden, chosen)[0] * upstream).sum().backward()
    assert plainly.get_total_flops() == 6 * M * D * V
    assert in_chunks.get_total_flops() == 8 * M * D * V
