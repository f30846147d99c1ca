"""The language-model head that can answer for chosen tokens without all logits at once.

Shapes: `M` positions, `D` width, `V` vocabulary; `C` positions and `S` of its words at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r1omni.model.onednn import linear
from r1omni.model.products import accurate, product

CHUNK_LOGITS = {"cpu": 2**21}  # at a time: few enough to stay in a core's caches
CHUNK_LOGITS_ELSEWHERE = 2**25
MIN_POSITIONS = {"cpu": 128}  # at a time: enough to read the weight for; then fewer words
MIN_POSITIONS_ELSEWHERE = 1024


class LanguageModelHead(nn.Linear):
    """Logits, or the log probabilities of chosen tokens, in one call of the module either way.

    One call, because under ZeRO-3 every call gathers the weight on all ranks together, and ranks
    have different numbers of positions.
    """

    def forward(
        self, hidden: Tensor, chosen: Tensor | None = None, temperature: float = 1.0
    ) -> Any:
        """Logits, (…, D) -> (…, V), at least float32: bfloat16's would lie 1/8 apart at 16.

        With `chosen` (M,): its log probabilities under softmax(logits / temperature) and the
        entropies, (M, D) -> 2 x (M,), at least float32. The entropy has no gradient.
        """
        if chosen is None:
            if self.weight.dtype == accurate(self.weight.dtype):
                return super().forward(hidden)
            return _AccurateLogits.apply(hidden, self.weight)
        return _ChosenLogprobs.apply(hidden, self.weight, chosen, temperature)


class _AccurateLogits(torch.autograd.Function):
    """hidden W^T in float32 from half precision: (…, D) -> (…, V). Gradients in half precision."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        rows = hidden.flatten(0, -2)
        words = max(1, CHUNK_LOGITS.get(hidden.device.type, weight.numel()) // weight.shape[1])
        parts = [product(rows, weight[part].t()) for part in _slices(len(weight), words)]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # no copy of them all
        return logits.view(*hidden.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        down = grad.to(weight.dtype)
        return down @ weight, down.flatten(0, -2).t() @ hidden.flatten(0, -2)


class _ChosenLogprobs(torch.autograd.Function):
    """log softmax(hidden W^T / temperature) at the chosen tokens, CHUNK_LOGITS logits at a time.

    Forward keeps each position's log-sum-exp, (M,), made word slice by word slice with a running
    maximum (Milakov & Gimelshein 2018, arXiv 1805.02867); backward makes the logits again. So no
    (M, V) tensor ever exists, for 8 M D V FLOP forward and backward instead of the plain head's 6.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, chosen: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        dtype = accurate(hidden.dtype)
        lse, logprobs, entropy = (hidden.new_empty(len(hidden), dtype=dtype) for _ in range(3))
        positions, words = _chunks(hidden, weight)
        for rows in _slices(len(hidden), positions):
            picked = lse.new_zeros(len(chosen[rows]))  # (C,), as the next three
            top, total, weighted = torch.full_like(picked, -torch.inf), picked, picked
            for part in _slices(len(weight), words):
                logits = _logits(hidden[rows], weight[part], temperature)  # (C, S)
                higher = torch.maximum(top, logits.amax(dim=-1))
                fade, top = (top - higher).exp(), higher
                place, here = _places(chosen[rows], part)
                picked = torch.where(here, logits.gather(-1, place).squeeze(-1), picked)
                shares = (logits - top[:, None]).exp_()
                total = fade * total + shares.sum(dim=-1)
                weighted = fade * weighted + shares.mul_(logits).sum(dim=-1)
            lse[rows] = total.log() + top
            logprobs[rows] = picked - lse[rows]
            entropy[rows] = lse[rows] - weighted / total
        ctx.save_for_backward(hidden, weight, chosen, lse)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, chosen, lse = ctx.saved_tensors
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        positions, words = _chunks(hidden, weight)
        for part in _slices(len(weight), words):
            own = None if grad_weight is None else grad_weight[part].to(lse.dtype)  # (S, D)
            for rows in _slices(len(hidden), positions):
                logits = _logits(hidden[rows], weight[part], ctx.temperature)
                scale = grad[rows, None] / ctx.temperature  # (C, 1)
                place, here = _places(chosen[rows], part)
                down = logits.sub_(lse[rows, None]).exp_().mul_(-scale)
                down = down.scatter_add_(1, place, scale * here[:, None]).to(weight.dtype)  # (C, S)
                if grad_hidden is not None:
                    _add_product(grad_hidden[rows], down, weight[part])
                if own is not None:
                    _add_product(own, down.t(), hidden[rows])
            if grad_weight is not None and own is not None and own.dtype != weight.dtype:
                grad_weight[part] = own
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> tuple[int, int]:
    """How many positions and words at a time: all words, unless too few positions were left."""
    kind = hidden.device.type
    budget = CHUNK_LOGITS.get(kind, CHUNK_LOGITS_ELSEWHERE)
    fewest = MIN_POSITIONS.get(kind, MIN_POSITIONS_ELSEWHERE)
    positions = max(1, min(len(hidden), max(fewest, budget // len(weight))))
    return positions, max(1, min(len(weight), budget // positions))


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(length, start + size))


def _places(chosen: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Where in a slice of the words the chosen ones stand, and which do: (C,) -> (C, 1), (C,)."""
    place = chosen - part.start
    here = (place >= 0) & (chosen < part.stop)
    return place.where(here, 0)[:, None], here


def _add_product(into: Tensor, a: Tensor, b: Tensor) -> None:
    """into += a b, where `into` may be more accurate than they are."""
    if into.dtype == a.dtype:
        into.addmm_(a, b)
    else:
        into.add_(product(a, b))


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """(C, D), (S, D) -> (C, S), at least float32."""
    exact = weight.dtype == accurate(weight.dtype)
    logits = linear(hidden, weight) if exact else product(hidden, weight.t())
    return logits if temperature == 1.0 else logits.div_(temperature)
