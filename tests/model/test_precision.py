"""Half precision against float64: scores are as exact as in torch's own attention.

Key biases of a hundred, as Qwen2 has them, make scores that bfloat16 cannot tell apart.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from r1omni.model import attention
from r1omni.model.completion_cache import CompletionCache
from r1omni.model.head import LanguageModelHead
from r1omni.model.products import product
from r1omni.model.shared_prefix import Prefix

P, K, R, L, G, T, D = 2, 2, 2, 40, 4, 12, 16  # as in attention.py, all of the T tokens new
BIASES = [0.0, 100.0]
KINDS = [torch.bfloat16, torch.float16]
NO_FURTHER = 1.5  # times torch's own distance from float64; without a bias of 100 they are equal


def tensors(bias, dtype):
    """Rotated queries and keys whose means are +-bias, and values: query first, then the prefix."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def rotated(x, first):
        turns = torch.arange(first, first + x.shape[-2])[:, None] / 1e4 ** (
            torch.arange(0, D, 2) / D
        )
        a, b = x.chunk(2, dim=-1)
        return torch.cat(
            [a * turns.cos() - b * turns.sin(), b * turns.cos() + a * turns.sin()], dim=-1
        )

    mean = bias * noise(K, 1, 1, D).sign()
    query = rotated(0.3 * noise(P, G, K * R, T, D), L).transpose(2, 3)
    prefix = rotated(noise(P, K, L, D) + mean[:, 0], 0), noise(P, K, L, D)
    own = rotated(noise(P, K, G, T, D) + mean, L), noise(P, K, G, T, D)
    return [x.to(dtype) for x in (query, *prefix, *own)]


def padding():
    hidden = torch.zeros(P, L, dtype=torch.bool)
    hidden[1, :7] = True
    return hidden


def repeated(query, prefix_key, prefix_value, key, value):
    """torch's own attention over the prompt repeated for every completion: (P, G, T, H*d)."""

    def joined(prefix, own):
        prompts = prefix[:, :, None].expand(-1, -1, G, -1, -1)
        return torch.cat([prompts, own], dim=3).transpose(1, 2).flatten(0, 1)

    seen = torch.cat([~padding(), torch.ones(P, T, dtype=torch.bool)], dim=1)
    seen = seen.repeat_interleave(G, dim=0)[:, None, None]
    attended = scaled_dot_product_attention(
        query.flatten(0, 1).transpose(1, 2),
        joined(prefix_key, key),
        joined(prefix_value, value),
        attn_mask=seen & torch.ones(T, L + T, dtype=torch.bool).tril(L),
        enable_gqa=True,
    )
    return attended.transpose(1, 2).reshape(P, G, T, -1)


def with_gradients(attend, inputs, grad):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = attend(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def error(found, true):
    return float((found.double() - true).norm() / true.norm())


@pytest.mark.parametrize("blocks", [2**19, 400])  # all at once; a few rows, whose sums are added up
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("bias", BIASES)
def test_learning_is_as_exact_as_torchs_own_attention(bias, dtype, blocks, monkeypatch):
    """What is attended to, and the gradients of query, prompt's and own keys and values."""
    monkeypatch.setitem(attention.BLOCK_SCORES, "cpu", blocks)
    inputs = tensors(bias, dtype)
    grad = torch.randn(P, G, T, K * R * D, generator=torch.Generator().manual_seed(1)).to(dtype)

    def ours(*inputs):
        return attention.shared_prefix_attention(*inputs, padding())

    truth = with_gradients(repeated, [x.double() for x in inputs], grad)
    theirs = with_gradients(repeated, inputs, grad)
    found = with_gradients(ours, inputs, grad)
    names = ("attended", "query", "prefix key", "prefix value", "key", "value")
    for name, mine, other, true in zip(names, found, theirs, truth, strict=True):
        assert 0.0 < error(mine, true) <= NO_FURTHER * error(other, true), name


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("bias", BIASES)
def test_decoding_is_as_exact_as_torchs_own_attention(bias, dtype):
    inputs = tensors(bias, dtype)
    query, prefix_key, prefix_value, key, value = inputs
    mask = ~padding()
    width = query.flatten(3).shape[-1]
    prefix = Prefix(
        [prefix_key], [prefix_value], mask, mask.sum(dim=1), torch.zeros(P, width, dtype=dtype)
    )
    unturned = torch.ones(P, T, D, dtype=dtype), torch.zeros(P, T, D, dtype=dtype)
    model = SimpleNamespace(rotary_emb=lambda _hidden, _positions: unturned)
    cache = CompletionCache(model, prefix, G, T)
    attended = []
    for t in range(T):
        given = (query[:, :, t].flatten(2), *(x[:, :, :, t].transpose(1, 2) for x in (key, value)))
        q, k, v = (x.reshape(P, G, -1) for x in given)
        layer = SimpleNamespace(
            self_attn=SimpleNamespace(
                head_dim=D,
                q_proj=lambda _, q=q: q,
                k_proj=lambda _, k=k: k,
                v_proj=lambda _, v=v: v,
            )
        )
        cos, sin = (x[:, t, None, None] for x in unturned)
        attended.append(cache._attend(0, layer, q, cos, sin))
        cache.length += 1
    truth = repeated(*(x.double() for x in inputs))
    theirs = error(repeated(*inputs), truth)
    assert 0.0 < error(torch.stack(attended, dim=2), truth) <= NO_FURTHER * theirs


@pytest.mark.parametrize("dtype", KINDS)
def test_logits_are_not_rounded_to_half_precision(dtype):
    """Of the head alone, of what decoding reads, and of what chosen tokens are scored by."""
    generator = torch.Generator().manual_seed(0)
    head = LanguageModelHead(24, 50, bias=False).to(dtype)
    with torch.no_grad():
        head.weight.normal_(std=4.0, generator=generator)
    hidden = torch.randn(2, 7, 24, generator=generator).to(dtype).requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    weight = head.weight.detach().double().requires_grad_()
    true, logits = exact @ weight.t(), head(hidden)
    assert logits.dtype == torch.float32
    assert error(logits.detach(), true.detach()) < 1e-6
    chosen = torch.arange(14)
    logprobs, _ = head(hidden.flatten(0, 1), chosen)
    expected = true.flatten(0, 1).log_softmax(dim=-1)[torch.arange(14), chosen]
    assert error(logprobs.detach(), expected.detach()) < 1e-6
    grad = torch.randn(true.shape, generator=generator)
    found = torch.autograd.grad(logits, (hidden, head.weight), grad)
    for mine, theirs in zip(found, torch.autograd.grad(true, (exact, weight), grad), strict=True):
        assert error(mine, theirs) < 4 * torch.finfo(dtype).eps


def test_a_product_of_single_precision_is_the_plain_one():
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 6)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(product(a.to(kind), b.to(kind)), a.to(kind) @ b.to(kind))
