"""Losses as arithmetic: tensors in, tensors out.

Shapes: `P` prompts, `G` completions each, `N = P*G`, `T` tokens. Masks are 1 on generated tokens up
to and including the end token (`completion_mask`).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

AdvantageKind = Literal["group", "none", "rejection"]


def group_advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """How much better each completion did than its group: (P, G) -> (P, G).

    A = (r - mean) / (std + eps) over G, unbiased std, as in R1-Omni (arXiv 2503.05379, eq. 4).
    A group whose rewards are all equal teaches nothing: its advantages are 0.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = centred / (rewards.std(dim=1, keepdim=True) + eps)
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return advantages.masked_fill(equal, 0.0)  # a mean of equal rewards may be off by rounding


def advantages(rewards: Tensor, kind: AdvantageKind, *, eps: float, highest: float) -> Tensor:
    """How much each completion is to be made likelier: (P, G) -> (P, G).

    group      (r - mean) / (std + eps) of its group: GRPO, the paper's
    none       r - mean: Dr. GRPO (arXiv 2503.20783), without the division by the group's std
    rejection  1 for a completion with the `highest` reward, else 0: rejection-sampling fine-tuning
               (RAFT, arXiv 2304.06767) on the policy's own samples
    """
    if kind == "group":
        return group_advantages(rewards, eps)
    if kind == "rejection":
        return (rewards >= highest - 1e-6).to(rewards.dtype)
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)


def kl_to_reference(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) per token: (N, T), (N, T) -> (N, T).

    k3 = exp(d) - d - 1 with d = ref - policy: unbiased, never negative, low variance
    (Schulman 2020, http://joschu.net/blog/kl-approx.html; GRPO: arXiv 2402.03300, eq. 4).
    """
    difference = ref_logprobs - logprobs
    return torch.exp(difference) - difference - 1.0


def mean_over_completions(values: Tensor, completion_mask: Tensor) -> Tensor:
    """The mean over completions of each one's mean over tokens: (N, T), (N, T) -> ()."""
    mask = completion_mask.to(values.dtype)
    per_completion = (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
    return per_completion.mean()


def grpo_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    kl_coef: float,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The on-policy GRPO loss and its metrics: (N, T), (N, T), (N,), (N, T) -> (), {name: ()}.

    Per token -(ratio * A - kl_coef * k3), ratio = exp(logprobs - logprobs.detach()): one update per
    batch, so the old policy is the policy itself and nothing is clipped; averaged over the tokens
    of each completion, then over the completions (R1-Omni's released trainer; arXiv 2402.03300).
    """
    ratio = torch.exp(logprobs - logprobs.detach())
    kl = kl_to_reference(logprobs, ref_logprobs)
    per_token = -(ratio * advantages[:, None] - kl_coef * kl)
    loss = mean_over_completions(per_token, completion_mask)
    metrics = {
        "train/loss": loss.detach(),
        "train/kl": mean_over_completions(kl.detach(), completion_mask),
    }
    return loss, metrics


def sft_loss(logprobs: Tensor, completion_mask: Tensor) -> Tensor:
    """The mean negative log-likelihood per completion token of the batch: (N, T), (N, T) -> ().

    Averaged over all tokens of the batch together, as transformers does for causal models.
    """
    mask = completion_mask.to(logprobs.dtype)
    return -(logprobs * mask).sum() / mask.sum().clamp(min=1.0)
