"""What a batch of groups teaches: the GRPO loss of sampled completions against their prefix.

Shapes: `P` prompts, `G` completions each, `T` tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.machine.progress import timed
from r1omni.model.backbone import Backbone, prefill_asked
from r1omni.model.packed_linear import packed_linears
from r1omni.model.sampling import score_completions
from r1omni.training.joint import MeanWeights
from r1omni.training.losses import PAPERS_RULES, LossRules, grpo_loss
from r1omni.training.reference import Reference
from r1omni.training.rollouts import Rollouts

LossOf = Callable[[slice], tuple[Tensor, Mapping[str, Tensor]]]  # of some groups, and metrics
_NAMES = (
    "train/loss",
    "train/kl",
    "rollout/entropy",
    "rollout/logprob_gap",
    "time/reference",
    "time/policy",
)


def nothing_compared(reference: Reference | None) -> dict[str, float]:
    """The metrics where no completion was scored; without a reference there is no KL."""
    return {name: 0.0 for name in _NAMES if reference is not None or name != "train/kl"}


@dataclass(frozen=True)
class Compared:
    """The loss, ready for the backward pass, with its metrics and the seconds that it took."""

    loss: Tensor
    metrics: dict[str, float]
    scored: MeanWeights  # of the means in joint.LEARNED and joint.SCORED_TOKENS
    broken: list[int]  # the groups whose own loss is not finite, by their index
    weight: float  # how much the loss counts among those of the step's other micro-batches


def group_loss(
    policy: Backbone,
    reference: Reference | None,
    rollouts: Rollouts,
    *,
    temperature: float,
    kl_coef: float,
    checkpointing: bool = False,
    rules: LossRules = PAPERS_RULES,
    on_policy: bool = True,
) -> Compared:
    """How the policy is to change: GRPO's loss of every sampled group (losses.grpo_loss).

    Groups without a variance of rewards have advantages of 0, so their policy term and its gradient
    are exactly 0. With `kl_coef` > 0 they are scored like all others, since their KL counts. With
    `kl_coef` = 0 they pass through neither model: exact for the loss and every gradient; KL,
    entropy and logprob gap then cover the other groups only. Where none is left the loss is 0
    without a graph, as Engine.backward takes it. With `checkpointing` the backward pass makes inner
    states again. Without a `reference` there is no KL. Off policy, after an update from the same
    rollouts, ratios are to the log probabilities at sampling.

    The gap is the mean distance, in nats per token, of the log probabilities in this pass from
    those at sampling. The loss takes them for equal: rounding apart (below 1e-5 in float32, 1e-1 in
    bfloat16) they are, and more means that sampling and learning see different models.
    """
    counted = groups_that_count(rollouts.advantages, kl_coef)
    weight = _weight(rollouts, rules)
    if not len(counted):
        zero = rollouts.advantages.new_zeros(())
        return Compared(zero, nothing_compared(reference), MeanWeights(0, 0), [], weight)
    if len(counted) < len(rollouts.advantages):
        rollouts = rollouts.select(counted.tolist())
    share = _weight(rollouts, rules) / weight if weight else 0.0
    mask = rollouts.completions.mask
    seconds: dict[str, float] = {}
    with timed(seconds, "time/reference"):
        ref_logprobs = _reference_logprobs(reference, rollouts, temperature)
    with timed(seconds, "time/policy"):
        logprobs, entropy = _policy_logprobs(
            policy, rollouts, temperature, checkpointing=checkpointing
        )

    def loss_of(groups: slice) -> tuple[Tensor, Mapping[str, Tensor]]:
        ref, old = (
            None if x is None else x[groups].flatten(0, 1)
            for x in (ref_logprobs, None if on_policy else rollouts.completions.logprobs)
        )
        own = (logprobs, rollouts.advantages, _learned(rollouts, rules))
        new, advantages, kept = (x[groups].flatten(0, 1) for x in own)
        return grpo_loss(new, ref, advantages, kept, kl_coef=kl_coef, old_logprobs=old, rules=rules)

    loss, metrics = loss_of(slice(None))
    sound = bool(metrics["train/loss"].isfinite())
    apart = (logprobs.detach() - rollouts.completions.logprobs).abs() * mask
    return Compared(
        share * loss,
        {
            **{name: float(value) for name, value in metrics.items()},
            "train/loss": share * float(metrics["train/loss"]),
            "rollout/entropy": float(entropy.sum() / mask.sum()),
            "rollout/logprob_gap": float(apart.sum() / mask.sum()),
            **seconds,
        },
        MeanWeights(int(_learned(rollouts, rules).any(dim=2).sum()), int(mask.sum())),
        [] if sound else _broken(loss_of, counted.tolist()),
        weight,
    )


def _broken(loss_of: LossOf, groups: Sequence[int]) -> list[int]:
    """Which of the groups have a loss of their own that is not finite."""
    finite = (bool(loss_of(slice(i, i + 1))[0].isfinite()) for i in range(len(groups)))
    return [group for group, sound in zip(groups, finite, strict=True) if not sound]


def _policy_logprobs(
    policy: Backbone, rollouts: Rollouts, temperature: float, *, checkpointing: bool
) -> tuple[Tensor, Tensor]:
    """The policy's log probability and entropy of each token (P, G, T), with their graph."""
    prefix = rollouts.prefix
    if prefix is None:
        prefix = prefill_asked(policy, rollouts.prompts, checkpointing=checkpointing)
    return score_completions(
        policy.language_model,
        prefix,
        rollouts.completions.token_ids,
        rollouts.completions.mask,
        temperature=temperature,
        checkpointing=checkpointing,
    )


def _reference_logprobs(
    reference: Reference | None, rollouts: Rollouts, temperature: float
) -> Tensor | None:
    """The reference's log probability of each token (P, G, T)."""
    if reference is None:
        return None
    ids, mask = rollouts.completions.token_ids, rollouts.completions.mask
    with torch.no_grad(), reference as frozen:
        language_model = frozen.language_model
        with packed_linears(language_model.model.layers, mask.numel()):
            known = prefill_asked(frozen, rollouts.prompts)
            logprobs, _ = score_completions(
                language_model, known, ids, mask, temperature=temperature
            )
    return logprobs


def _learned(rollouts: Rollouts, rules: LossRules) -> Tensor:
    """1 for the tokens that are learned from (P, G, T)."""
    completions = rollouts.completions
    if not rules.mask_truncated:
        return completions.mask
    return completions.mask * completions.finished[..., None]


def _weight(rollouts: Rollouts, rules: LossRules) -> float:
    """What a mean by `rules` weighs by: completions, or for dapo the tokens that are learned."""
    if rules.kind == "dapo":
        return float(_learned(rollouts, rules).sum())
    return float(len(rollouts.advantages))


def groups_that_count(advantages: Tensor, kl_coef: float) -> Tensor:
    """The groups whose loss is not 0 by itself: (P, G) -> indices (P',), or none."""
    if kl_coef > 0.0:
        return torch.arange(len(advantages), device=advantages.device)
    return advantages.ne(0.0).any(dim=1).nonzero().squeeze(1)
