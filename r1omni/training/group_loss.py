"""What a batch of groups teaches: the GRPO loss of sampled completions against their prefix.

Shapes: `P` prompts, `G` completions each, `T` tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.machine.progress import timed
from r1omni.model.backbone import Backbone, prefill_asked
from r1omni.model.packed_linear import packed_linears
from r1omni.model.sampling import score_completions
from r1omni.training.joint import MeanWeights
from r1omni.training.losses import grpo_loss
from r1omni.training.reference import Reference
from r1omni.training.rollouts import Rollouts

_METRICS = (
    "train/loss",
    "train/kl",
    "rollout/entropy",
    "rollout/logprob_gap",
    "time/reference",
    "time/policy",
)


@dataclass(frozen=True)
class Compared:
    """The loss, ready for the backward pass, with its metrics and the seconds that it took."""

    loss: Tensor
    metrics: dict[str, float]
    scored: MeanWeights  # of the means `train/kl`, `rollout/entropy`, `rollout/logprob_gap`
    broken: list[int]  # the groups whose own loss is no number, by their index


def group_loss(
    policy: Backbone,
    reference: Reference,
    rollouts: Rollouts,
    *,
    temperature: float,
    kl_coef: float,
    checkpointing: bool = False,
) -> Compared:
    """How the policy is to change: GRPO's loss of every sampled group (losses.grpo_loss).

    Groups without a variance of rewards have advantages of 0, so their policy term and its gradient
    are exactly 0. With `kl_coef` > 0 they are scored like all others, since their KL counts. With
    `kl_coef` = 0 they pass through neither model: exact for the loss and every gradient; KL,
    entropy and logprob gap then cover the other groups only. Where none is left the loss is 0
    without a graph, as Engine.backward takes it. With `checkpointing` the backward pass makes inner
    states again.

    The gap is the mean distance, in nats per token, of the log probabilities in this pass from
    those at sampling. The loss takes them for equal: rounding apart (below 1e-5 in float32, 1e-1 in
    bfloat16) they are, and more means that sampling and learning see different models.
    """
    counted = groups_that_count(rollouts.advantages, kl_coef)
    if not len(counted):
        zero = rollouts.advantages.new_zeros(())
        return Compared(zero, dict.fromkeys(_METRICS, 0.0), MeanWeights(0, 0), [])
    share = len(counted) / len(rollouts.advantages)
    if share < 1.0:
        rollouts = rollouts.select(counted.tolist())
    ids, mask = rollouts.completions.token_ids, rollouts.completions.mask
    seconds: dict[str, float] = {}
    with timed(seconds, "time/reference"), torch.no_grad(), reference as frozen:
        language_model = frozen.language_model
        with packed_linears(language_model.model.layers, mask.numel()):
            known = prefill_asked(frozen, rollouts.prompts)
            ref_logprobs, _ = score_completions(
                language_model, known, ids, mask, temperature=temperature
            )
    with timed(seconds, "time/policy"):
        prefix = rollouts.prefix
        if prefix is None:
            prefix = prefill_asked(policy, rollouts.prompts, checkpointing=checkpointing)
        logprobs, entropy = score_completions(
            policy.language_model,
            prefix,
            ids,
            mask,
            temperature=temperature,
            checkpointing=checkpointing,
        )
    of_groups = (logprobs, ref_logprobs, rollouts.advantages, mask)
    loss, metrics = grpo_loss(*(x.flatten(0, 1) for x in of_groups), kl_coef=kl_coef)
    apart = (logprobs.detach() - rollouts.completions.logprobs).abs() * mask
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
            "rollout/logprob_gap": float(apart.sum() / mask.sum()),
            **seconds,
        },
        MeanWeights(mask.shape[0] * mask.shape[1], int(mask.sum())),
        broken,
    )


def groups_that_count(advantages: Tensor, kl_coef: float) -> Tensor:
    """The groups whose loss is not 0 by itself: (P, G) -> indices (P',), or none."""
    if kl_coef > 0.0:
        return torch.arange(len(advantages), device=advantages.device)
    return advantages.ne(0.0).any(dim=1).nonzero().squeeze(1)
