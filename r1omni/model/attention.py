"""Attention of many completions to one prompt and to themselves, without its score matrix.

The prompt's keys are never repeated, the two parts are normalised together, and the scores exist
for one block of rows at a time, forward and backward: memory grows with the completions alone.
Shapes: `P` prompts, `G` completions each, `L` prompt positions, `T` new tokens, `S` tokens of a
completion in all (the T new ones are its last), `H` query heads, `K` key/value heads, `R = H / K`,
`d` head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1omni.model.products import accurate, product

BLOCK_SCORES = {"cpu": 2**19}  # scores at a time; 2 MiB of float32 stay in a core's caches
BLOCK_SCORES_ELSEWHERE = 2**27


def shared_prefix_attention(
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
) -> Tensor:
    """What each new token attends to: (P, G, T, H, d) -> (P, G, T, H*d).

    Every token sees its prompt (P, K, L, d) but for `padding` (P, L), and of its own completion
    (P, K, G, S, d) everything up to itself. One softmax over both: in half precision, too, scores
    and sums are float32 (products.py).
    """
    P, G, T, H, d = query.shape
    K = prefix_key.shape[1]
    R = H // K
    # rows of one key/value head together: (P, K, G, T*R, d)
    scaled, scale = scale_query(query, d)
    rows = scaled.reshape(P, G, T, K, R, d).permute(0, 3, 1, 2, 4, 5)
    rows = rows.reshape(P, K, G, T * R, d)
    inputs = (rows, prefix_key, prefix_value, key, value)
    attended: Tensor = _SharedPrefixAttention.apply(*inputs, padding, R, scale)
    attended = attended.reshape(P, K, G, T, R, d).permute(0, 2, 3, 1, 4, 5)
    return attended.reshape(P, G, T, H * d)


def scale_query(query: Tensor, width: int) -> tuple[Tensor, float]:
    """The query over sqrt(width), and by what the scores are still to be multiplied: 1.

    In half precision the query stays as it is, since the division would round it.
    """
    if query.dtype == accurate(query.dtype):
        return query * width**-0.5, 1.0
    return query, float(width**-0.5)


@dataclass(frozen=True)
class _Block:
    """Rows [first, last) of completions [low, high); they see `visible` own tokens at most."""

    low: int
    high: int
    first: int
    last: int
    visible: int
    hidden: Tensor | None  # (last - first, visible) True where an own token is still to come


class _SharedPrefixAttention(torch.autograd.Function):
    """Keeps the result and each row's log-sum-exp; the backward makes the scores again.

    With p = exp(s - lse) and D = sum(grad * out): ds = p * (grad v^T - D), as in FlashAttention-2
    (arXiv 2307.08691); the log-sum-exp is over both parts, so each part's gradient is exact.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        repeats: int,
        scale: float,
    ) -> Tensor:
        attended = torch.empty_like(query)
        lse = query.new_empty(query.shape[:-1], dtype=accurate(query.dtype))
        for block in _blocks(query, prefix_key, key, repeats):
            q, k, v = _cut(block, query, key, value)
            to_prefix, to_own = _scores(q, prefix_key, k, padding, block, scale)
            top = torch.maximum(to_prefix.amax(-1), to_own.amax(-1)).unsqueeze(-1)
            to_prefix.sub_(top).exp_()
            to_own.sub_(top).exp_()
            total = to_prefix.sum(-1, keepdim=True).add_(to_own.sum(-1, keepdim=True))
            out = _apply(to_prefix.to(v.dtype), prefix_value).add_(product(to_own.to(v.dtype), v))
            rows = _rows(block)
            attended[rows] = out.div_(total)
            lse[rows] = total.log_().add_(top).squeeze(-1)
        ctx.save_for_backward(query, prefix_key, prefix_value, key, value, padding, attended, lse)
        ctx.repeats, ctx.scale = repeats, scale
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, prefix_key, prefix_value, key, value, padding, attended, lse = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        inputs = (prefix_key, prefix_value, key, value)
        grad_prefix_key, grad_prefix_value, grad_key, grad_value = (
            torch.zeros_like(x, dtype=lse.dtype, memory_format=torch.contiguous_format)
            for x in inputs
        )
        shift = (grad.to(lse.dtype) * attended).sum(-1, keepdim=True)  # D
        for block in _blocks(query, prefix_key, key, ctx.repeats):
            rows, own = _rows(block), _own(block)
            q, k, v = _cut(block, query, key, value)
            g, down, level = grad[rows], shift[rows], lse[rows].unsqueeze(-1)
            to_prefix, to_own = _scores(q, prefix_key, k, padding, block, ctx.scale)
            p_prefix, p_own = to_prefix.sub_(level).exp_(), to_own.sub_(level).exp_()
            grad_prefix_value += _summed(p_prefix.to(g.dtype), g)
            grad_value[own] += product(p_own.to(g.dtype).transpose(-1, -2), g)
            ds_prefix = p_prefix.mul_(_apply(g, prefix_value.transpose(-1, -2)).sub_(down))
            ds_own = p_own.mul_(product(g, v.transpose(-1, -2)).sub_(down))
            ds_prefix, ds_own = (_scaled(x, ctx.scale).to(q.dtype) for x in (ds_prefix, ds_own))
            grad_query[rows] = _apply(ds_prefix, prefix_key).add_(product(ds_own, k))
            grad_prefix_key += _summed(ds_prefix, q)
            grad_key[own] += product(ds_own.transpose(-1, -2), q)
        sums = (grad_prefix_key, grad_prefix_value, grad_key, grad_value)
        found = (x.to(like.dtype) for x, like in zip(sums, inputs, strict=True))
        return grad_query, *found, None, None, None


def _blocks(query: Tensor, prefix_key: Tensor, key: Tensor, repeats: int) -> Iterator[_Block]:
    """Whole completions at a time where they fit, else a stretch of tokens of one."""
    P, K, G, n_rows, _ = query.shape
    L, S, T = prefix_key.shape[2], key.shape[3], n_rows // repeats
    budget = BLOCK_SCORES.get(query.device.type, BLOCK_SCORES_ELSEWHERE) // (P * K * repeats)
    tokens = min(T, max(1, budget // (L + S)))
    group = max(1, budget // (T * (L + S)))
    past = S - T
    for first in range(0, T, tokens):
        last = min(T, first + tokens)
        hidden = None
        if last - first > 1:
            n = last - first
            hidden = torch.ones(n, past + last, dtype=torch.bool, device=query.device)
            hidden = hidden.triu(past + first + 1).repeat_interleave(repeats, dim=0)
        for low in range(0, G, group):
            high = min(G, low + group)
            yield _Block(low, high, first * repeats, last * repeats, past + last, hidden)


def _rows(block: _Block) -> tuple[slice, ...]:
    return (slice(None), slice(None), slice(block.low, block.high), slice(block.first, block.last))


def _own(block: _Block) -> tuple[slice, ...]:
    return (slice(None), slice(None), slice(block.low, block.high), slice(0, block.visible))


def _cut(block: _Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query[_rows(block)], key[_own(block)], value[_own(block)]


def _scores(
    query: Tensor,
    prefix_key: Tensor,
    key: Tensor,
    padding: Tensor | None,
    block: _Block,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(P, K, g, r, d) against the prompt (P, K, g, r, L) and the own tokens (P, K, g, r, visible).

    New tensors, at least float32."""
    to_prefix = _scaled(_apply(query, prefix_key.transpose(-1, -2)), scale)
    if padding is not None:
        to_prefix.masked_fill_(padding[:, None, None, None], float("-inf"))
    to_own = _scaled(product(query, key.transpose(-1, -2)), scale)
    if block.hidden is not None:
        to_own.masked_fill_(block.hidden, float("-inf"))
    return to_prefix, to_own


def _scaled(scores: Tensor, scale: float) -> Tensor:
    return scores if scale == 1.0 else scores.mul_(scale)


def _apply(rows: Tensor, shared: Tensor) -> Tensor:
    """(P, K, g, r, a) @ (P, K, a, b), every completion with the same: -> (P, K, g, r, b)."""
    return product(rows.flatten(2, 3), shared).view(*rows.shape[:4], -1)


def _summed(rows: Tensor, others: Tensor) -> Tensor:
    """(P, K, g, r, a), (P, K, g, r, b) -> (P, K, a, b), over all rows of all completions."""
    return product(rows.flatten(2, 3).transpose(-1, -2), others.flatten(2, 3))
