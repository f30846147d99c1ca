"""Losses as arithmetic: tensors in, tensors out.

Shapes: `P` prompts, `G` completions each, `N = P*G`, `T` tokens. Masks are 1 on generated tokens up
to and including the end token (`completion_mask`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

AdvantageKind = Literal["group", "batch", "none", "rejection"]
LossKind = Literal["grpo", "dr_grpo", "dapo"]


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
    batch      r - mean of its group; the division by the std of the step's whole batch follows in
               `batch_scale`, once all are known
    none       r - mean: Dr. GRPO (arXiv 2503.20783), without the division by the group's std
    rejection  1 for a completion with the `highest` possible reward, else 0: rejection-sampling
               fine-tuning on the policy's own right samples (RAFT, arXiv 2304.06767, takes the best
               of each prompt instead; for rewards of 0 and 1 these are the right ones, if any)
    """
    if kind == "group":
        return group_advantages(rewards, eps)
    if kind == "rejection":
        return (rewards >= highest - 1e-6).to(rewards.dtype)
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)


def batch_scale(rewards: Sequence[float], eps: float) -> float:
    """What r - mean of a group is multiplied by: 1 / (std + eps) over the rewards of the batch.

    The unbiased std over all completions of the groups that the step keeps. A group with nearly
    equal rewards is not blown up, as by its own std (arXiv 2508.08221: the mean of the group, the
    std of the batch).
    """
    return 1.0 / (float(torch.tensor(rewards, dtype=torch.float64).std()) + eps)


def summed_advantages(
    parts: Mapping[str, Tensor], weights: Mapping[str, float], *, eps: float
) -> Tensor:
    """Each reward normalised in its group by itself, then their weighted sum: R x (P, G) -> (P, G).

    Under the usual advantage two completions with different rewards of an equal sum look alike
    (GDPO, arXiv 2601.05242, without its division over the batch). Float64. Where rewards cancel
    each other out, rounding is left, which AdamW would make as large as any gradient: it is made 0.
    """
    terms = torch.stack(
        [weights[name] * group_advantages(part.double(), eps) for name, part in parts.items()]
    )
    largest = terms.abs().sum(dim=0).amax(dim=1, keepdim=True)  # of its group
    total = terms.sum(dim=0)
    return total.masked_fill(total.abs() < 1e-9 * largest, 0.0)


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


def mean_over_learned(values: Tensor, completion_mask: Tensor) -> Tensor:
    """As `mean_over_completions`, of those with a token in the mask: (N, T), (N, T) -> ()."""
    learned = completion_mask.any(dim=1)
    if not learned.any():
        return values.new_zeros(())
    return mean_over_completions(values[learned], completion_mask[learned])


@dataclass(frozen=True)
class LossRules:
    """How a token's terms become the loss.

    `kind` is how tokens are averaged (`mean_over`); `max_tokens` what dr_grpo divides by. The ratio
    of policy to old policy is clipped to [1 - clip_low, 1 + clip_high], and cut at `ratio_cap`
    before that. With `mask_truncated` a completion without an end teaches nothing.
    """

    kind: LossKind = "grpo"
    max_tokens: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_cap: float = math.inf
    mask_truncated: bool = False


PAPERS_RULES: Final = LossRules()


def mean_over(values: Tensor, completion_mask: Tensor, rules: LossRules) -> Tensor:
    """The mean over tokens by `rules.kind`: (N, T), (N, T) -> ().

    grpo     each completion's mean over its tokens, then over completions (arXiv 2402.03300, eq. 3)
    dr_grpo  each completion's sum over `max_tokens`, then over completions: a token weighs the same
             in a short and in a long completion (Dr. GRPO, arXiv 2503.20783)
    dapo     over all tokens together (DAPO, arXiv 2503.14476, eq. 8)
    """
    if rules.kind == "grpo":
        return mean_over_completions(values, completion_mask)
    mask = completion_mask.to(values.dtype)
    if rules.kind == "dr_grpo":
        return (values * mask).sum() / (rules.max_tokens * len(mask))
    return (values * mask).sum() / mask.sum().clamp(min=1.0)


def grpo_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    kl_coef: float,
    old_logprobs: Tensor | None = None,
    rules: LossRules = PAPERS_RULES,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The GRPO loss and its metrics: (N, T), (N, T), (N,), (N, T) -> (), {name: ()}.

    Per token -(min(ratio * A, clip(ratio) * A) - kl_coef * k3), ratio = exp(logprobs - old), and
    averaged by `mean_over` (arXiv 2402.03300, eq. 3). In the first update of a batch
    (`old_logprobs` None) the old policy is the policy itself, so the ratio is 1 and nothing is
    clipped: R1-Omni's released trainer. Without `ref_logprobs` there is no k3. A completion without
    a token in the mask has a loss of 0 and no part in the other metrics.
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = torch.exp(logprobs - old)
    gain = ratio * advantages[:, None]
    metrics = {}
    if old_logprobs is not None:
        kept = ratio.clamp(max=rules.ratio_cap)
        clipped = kept.clamp(1.0 - rules.clip_low, 1.0 + rules.clip_high)
        gain = torch.minimum(kept * advantages[:, None], clipped * advantages[:, None])
        beyond = gain.detach() != ratio.detach() * advantages[:, None]
        metrics["train/clipped"] = mean_over_learned(beyond.to(gain.dtype), completion_mask)
    per_token = -gain
    if ref_logprobs is not None:
        kl = kl_to_reference(logprobs, ref_logprobs)
        per_token = -(gain - kl_coef * kl)
        metrics["train/kl"] = mean_over_learned(kl.detach(), completion_mask)
    loss = mean_over(per_token, completion_mask, rules)
    return loss, {"train/loss": loss.detach(), **metrics}


def sft_loss(logprobs: Tensor, completion_mask: Tensor) -> Tensor:
    """The mean negative log-likelihood per completion token of the batch: (N, T), (N, T) -> ().

    Averaged over all tokens of the batch together, as transformers does for causal models.
    """
    mask = completion_mask.to(logprobs.dtype)
    return -(logprobs * mask).sum() / mask.sum().clamp(min=1.0)
