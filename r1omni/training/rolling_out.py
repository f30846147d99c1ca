"""A micro-batch of GRPO: completions with rewards and advantages, and the loss that they make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from r1omni import prompts
from r1omni.corpora.clip import Clip
from r1omni.machine.progress import timed
from r1omni.model.backbone import Backbone, prefill_asked
from r1omni.model.feature_store import Features
from r1omni.model.sampling import uniform_draws
from r1omni.rewards import PAPERS_REWARDS, Rewards, Score
from r1omni.training.group_loss import Compared, group_loss
from r1omni.training.losses import LossRules, advantages, summed_advantages
from r1omni.training.modality_dropout import NOTHING_MISSING, ModalityDropout, as_shown
from r1omni.training.reference import Reference
from r1omni.training.rollouts import (
    Rollouts,
    Sampler,
    decode_texts,
    rewards_tensor,
    score_groups,
)
from r1omni.training.schedules import step_generator
from r1omni.training_config import GRPOParams

RATIO_CAP = 2.0  # of new to old probability in bfloat16, whose rounding alone moves ratios


@dataclass(frozen=True)
class Models:
    """The policy in training, its frozen start, and what samples from the policy."""

    policy: Backbone
    reference: Reference | None  # None: no KL term, so none is in memory
    sampler: Sampler
    prefix: Literal["reuse", "recompute"] = "reuse"  # machine.prefix
    checkpointing: bool = False  # the backward pass makes the layers' inner states again
    rewards: Rewards = PAPERS_REWARDS
    dropout: ModalityDropout = NOTHING_MISSING


def roll_out(
    models: Models,
    features: Sequence[Features],
    clips: Sequence[Clip],
    grpo: GRPOParams,
    step: int,
    places: Sequence[int],
) -> Rollouts:
    """Sample and score a group of completions for each clip.

    `places`: the clips' places in the step's global batch, which decide what is sampled.
    """
    missing = models.dropout.missing(step, places, [clip.has_audio for clip in clips])
    features = models.dropout.hide(features, missing)
    question = prompts.instruction("reasoned")
    instructions = [question] * len(clips)
    seconds: dict[str, float] = {}
    reuse = models.prefix == "reuse"
    asked = models.policy.ask(features, instructions)
    with timed(seconds, "time/prefill"), torch.set_grad_enabled(reuse):
        prefix = prefill_asked(models.policy, asked, checkpointing=models.checkpointing)
    generators = [step_generator(grpo.seed, step, place) for place in places]
    with timed(seconds, "time/sample"):
        completions = models.sampler.sample(
            asked,
            prefix,
            group_size=grpo.group_size,
            max_new_tokens=grpo.max_new_tokens,
            temperature=grpo.temperature,
            draws=uniform_draws(generators, grpo.group_size, grpo.max_new_tokens),
        )
        texts = decode_texts(models.policy, completions)
    shown = [as_shown(clip, side) for clip, side in zip(clips, missing, strict=True)]
    scores = score_groups(texts, shown, models.rewards)
    worth = _advantages(scores, models.rewards, grpo)
    return Rollouts(
        asked,
        prefix if reuse else None,
        completions,
        worth.to(completions.mask.device),
        clips,
        texts,
        scores,
        seconds,
    )


def _advantages(scores: Sequence[Sequence[Score]], rewards: Rewards, grpo: GRPOParams) -> Tensor:
    """The completions' advantages (P, G)."""
    if grpo.each_reward:
        parts = {
            name: torch.tensor(
                [[score.parts[name] for score in group] for group in scores], dtype=torch.float64
            )
            for name in rewards.weights
        }
        return summed_advantages(parts, rewards.weights, eps=grpo.advantage_eps).float()
    return advantages(
        rewards_tensor(scores),
        grpo.advantage,
        eps=grpo.advantage_eps,
        highest=sum(rewards.weights.values()),
    )


def learn(
    models: Models, rolled: Rollouts, grpo: GRPOParams, *, on_policy: bool = True
) -> Compared:
    """The GRPO loss of what was rolled out, ready to step on."""
    in_bfloat16 = models.policy.language_model.lm_head.weight.dtype == torch.bfloat16
    return group_loss(
        models.policy,
        models.reference,
        rolled,
        temperature=grpo.temperature,
        kl_coef=grpo.kl_coef,
        checkpointing=models.checkpointing,
        rules=LossRules(
            grpo.loss,
            grpo.max_new_tokens,
            grpo.clip_low,
            grpo.clip_high,
            RATIO_CAP if in_bfloat16 else math.inf,
            grpo.mask_truncated,
        ),
        on_policy=on_policy,
    )
