"""What a batch of groups teaches: the GRPO loss of sampled completions against their prefix.

Shapes: `P` prompts, `G` completions each, `T` tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.machine.progress import timed
from r1omni.model import HumanOmniForConditionalGeneration
from r1omni.model.packed_linear import packed_linears
from r1omni.model.prompting import PromptBatch, prefill_batch
from r1omni.model.sampling import score_completions
from r1omni.model.shared_prefix import Prefix
from r1omni.training.joint import Weights
from r1omni.training.losses import grpo_loss


@dataclass(frozen=True)
class Sampled:
    """Completions and what they were sampled from.

    `prefix` is the policy's, with its graph; None where the prompts are to run again for the loss.
    """

    prompts: PromptBatch
    prefix: Prefix | None
    token_ids: Tensor  # (P, G, T)
    mask: Tensor  # (P, G, T)
    advantages: Tensor  # (P, G)
    old_logprobs: Tensor | None = None  # (P, G, T), at sampling: to be compared with

    def select(self, groups: Tensor) -> "Sampled":
        """Only some groups, by their index (P',)."""
        ids, mask, advantages = (x[groups] for x in (self.token_ids, self.mask, self.advantages))
        prefix = None if self.prefix is None else self.prefix.select(groups)
        old = None if self.old_logprobs is None else self.old_logprobs[groups]
        return Sampled(self.prompts.select(groups), prefix, ids, mask, advantages, old)


@dataclass(frozen=True)
class Compared:
    """The loss, ready for the backward pass, with its metrics and the seconds that it took."""

    loss: Tensor
    metrics: dict[str, float]
    scored: Weights  # what `train/kl`, `rollout/entropy` and `rollout/logprob_gap` are means over
    broken: list[int]  # the groups whose own loss is no number, by their index


def group_loss(
    policy: HumanOmniForConditionalGeneration,
    reference: HumanOmniForConditionalGeneration,
    sampled: Sampled,
    *,
    temperature: float,
    kl_coef: float,
    checkpointing: bool = False,
) -> Compared:
    """How the policy is to change: GRPO's loss of every sampled group (losses.grpo_loss).

    Groups without a variance of rewards have advantages of 0, so their policy term and its gradient
    are exactly 0. With `kl_coef` > 0 they are scored like all others, since their KL counts. With
    `kl_coef` = 0 they pass through neither model: exact for the loss and every gradient; KL,
    entropy and logprob gap then tell of the other groups only. Where none is left the loss is 0
    without a graph, as Engine.backward takes it. With `checkpointing` the backward pass makes inner
    states again.

    The gap is the mean distance, in nats per token, of the log probabilities in this pass from
    those at sampling. The loss takes them for equal: rounding apart (below 1e-5 in float32, 1e-1 in
    bfloat16) they are, and more means that sampling and learning see different models.
    """
    counted = groups_that_count(sampled.advantages, kl_coef)
    if not len(counted):
        names = ["train/loss", "train/kl", "rollout/entropy", "time/reference", "time/policy"]
        names += [] if sampled.old_logprobs is None else ["rollout/logprob_gap"]
        zero = sampled.advantages.new_zeros(())
        return Compared(zero, dict.fromkeys(names, 0.0), Weights(0, 0), [])
    share = len(counted) / len(sampled.advantages)
    if share < 1.0:
        sampled = sampled.select(counted)
    ids, mask = sampled.token_ids, sampled.mask
    seconds: dict[str, float] = {}
    packed = packed_linears(reference.model.layers, mask.numel())
    with timed(seconds, "time/reference"), torch.no_grad(), packed:
        known = prefill_batch(reference, sampled.prompts)
        ref_logprobs, _ = score_completions(reference, known, ids, mask, temperature=temperature)
    with timed(seconds, "time/policy"):
        prefix = sampled.prefix
        if prefix is None:
            prefix = prefill_batch(policy, sampled.prompts, checkpointing=checkpointing)
        logprobs, entropy = score_completions(
            policy, prefix, ids, mask, temperature=temperature, checkpointing=checkpointing
        )
    of_groups = (logprobs, ref_logprobs, sampled.advantages, mask)
    loss, metrics = grpo_loss(*(x.flatten(0, 1) for x in of_groups), kl_coef=kl_coef)
    gap = {}
    if sampled.old_logprobs is not None:
        apart = (logprobs.detach() - sampled.old_logprobs).abs() * mask
        gap["rollout/logprob_gap"] = float(apart.sum() / mask.sum())
    broken: list[int] = []
    if not bool(metrics["train/loss"].isfinite()):
        for group, *own in zip(counted.tolist(), *of_groups, strict=True):
            if not bool(grpo_loss(*own, kl_coef=kl_coef)[0].isfinite()):
                broken.append(group)
    return Compared(
        share * loss,
        {
            "train/loss": share * float(metrics["train/loss"]),
            "train/kl": float(metrics["train/kl"]),
            "rollout/entropy": float(entropy.sum() / mask.sum()),
            **gap,
            **seconds,
        },
        Weights(mask.shape[0] * mask.shape[1], int(mask.sum())),
        broken,
    )


def groups_that_count(advantages: Tensor, kl_coef: float) -> Tensor:
    """The groups whose loss is not 0 by itself: (P, G) -> indices (P',), or none."""
    if kl_coef > 0.0:
        return torch.arange(len(advantages), device=advantages.device)
    return advantages.ne(0.0).any(dim=1).nonzero().squeeze(1)
