"""The language-model head that can answer for chosen tokens without all logits at once.

Shapes: `M` positions, `D` width, `V` vocabulary, `C` positions at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = {"cpu": 2**21}  # at a time: few enough to stay in a core's caches
CHUNK_LOGITS_ELSEWHERE = 2**28
MIN_POSITIONS = 128  # at a time: enough to read the weight for
KEPT_LOGITS = 2**24  # as many are kept for the backward pass; of more, none: it makes them again


class LanguageModelHead(nn.Linear):
    """Logits, or the log probabilities of chosen tokens, in one call of the module either way.

    One call, because under ZeRO-3 every call gathers the weight on all ranks together, and ranks
    have different numbers of positions.
    """

    def forward(
        self, hidden: Tensor, chosen: Tensor | None = None, temperature: float = 1.0
    ) -> Any:
        """Logits, (…, D) -> (…, V).

        With `chosen` (M,): its log probabilities under softmax(logits / temperature) and the
        entropies, (M, D) -> 2 x (M,), at least float32. The entropy has no gradient.
        """
        if chosen is None:
            return super().forward(hidden)
        return _ChosenLogprobs.apply(hidden, self.weight, chosen, temperature)


class _ChosenLogprobs(torch.autograd.Function):
    """log softmax(hidden W^T / temperature) at the chosen tokens, some positions at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, chosen: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        accurate = torch.promote_types(hidden.dtype, torch.float32)
        lse, logprobs, entropy = (hidden.new_empty(len(hidden), dtype=accurate) for _ in range(3))
        keep = any(ctx.needs_input_grad) and len(hidden) * len(weight) <= KEPT_LOGITS
        kept = []
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight, temperature)  # (C, V)
            top = logits.amax(dim=-1, keepdim=True)
            shares = (logits - top).exp_()
            total = shares.sum(dim=-1)
            lse[rows] = total.log() + top.squeeze(-1)
            logprobs[rows] = logits.gather(-1, chosen[rows, None]).squeeze(-1) - lse[rows]
            entropy[rows] = lse[rows] - shares.mul_(logits).sum(dim=-1).div_(total)
            kept.append(logits if keep else None)
        ctx.save_for_backward(hidden, weight, chosen, lse, *(x for x in kept if x is not None))
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, chosen, lse, *kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for i, rows in enumerate(_chunks(hidden, weight)):
            logits = kept[i] if kept else _logits(hidden[rows], weight, ctx.temperature)
            scale = grad[rows, None] / ctx.temperature  # (C, 1)
            down = (logits - lse[rows, None]).exp_().mul_(-scale)
            down = down.scatter_add_(1, chosen[rows, None], scale).to(weight.dtype)  # (C, V)
            if grad_hidden is not None:
                grad_hidden[rows] = down @ weight
            if grad_weight is not None:
                grad_weight.addmm_(down.t(), hidden[rows])
        return grad_hidden, grad_weight, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    budget = CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS_ELSEWHERE)
    size = max(MIN_POSITIONS, budget // len(weight))
    for start in range(0, len(hidden), size):
        yield slice(start, start + size)


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """(C, D), (V, D) -> (C, V), at least float32."""
    logits = nn.functional.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits.div_(temperature)
