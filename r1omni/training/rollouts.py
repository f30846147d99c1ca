"""Rollouts: a group of completions per clip, with their rewards and advantages.

Shapes: `P` prompts, `G` completions each, `T` tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from r1omni.corpora.clip import Clip
from r1omni.model.backbone import Backbone, PromptBatch
from r1omni.model.sampling import Decoded, decode
from r1omni.model.shared_prefix import Prefix
from r1omni.rewards import Rewards, Score


class Sampler(Protocol):
    """What writes completions; they may come from another engine than the one that learns."""

    def sample(
        self,
        asked: PromptBatch,
        prefix: Prefix,
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        draws: Tensor,
    ) -> Decoded:
        """G completions per prompt from the full distribution at `temperature`.

        `draws` (P, G, max_new_tokens) of `uniform_draws` decide them.
        """
        ...


@dataclass(frozen=True)
class SharedPrefixSampler:
    """Decodes with the policy itself, against the prefix that it learns from."""

    policy: Backbone

    def sample(
        self,
        asked: PromptBatch,
        prefix: Prefix,
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        draws: Tensor,
    ) -> Decoded:
        return decode(
            self.policy.language_model,
            prefix,
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.policy.eos_token_ids,
            temperature=temperature,
            draws=draws,
        )


@dataclass(frozen=True)
class Rollouts:
    """G completions for each of P prompts, and what they were sampled from and are worth."""

    prompts: PromptBatch
    prefix: Prefix | None  # the policy's, with its graph; None: the prompts run again for the loss
    completions: Decoded
    advantages: Tensor  # (P, G)
    clips: Sequence[Clip] = ()
    texts: Sequence[Sequence[str]] = ()  # P x G
    scores: Sequence[Sequence[Score]] = ()  # P x G
    seconds: Mapping[str, float] = field(default_factory=dict)  # that they took

    def select(self, prompts: Sequence[int]) -> "Rollouts":
        """Those of some prompts, as short as their longest completion; their share of the time."""
        index = torch.tensor(prompts, device=self.completions.mask.device)
        part = len(prompts) / len(self.prompts)
        return Rollouts(
            self.prompts.select(prompts),
            None if self.prefix is None else self.prefix.select(index),
            self.completions.select(index),
            self.advantages[index],
            [self.clips[i] for i in prompts] if self.clips else (),
            [self.texts[i] for i in prompts] if self.texts else (),
            [self.scores[i] for i in prompts] if self.scores else (),
            {name: part * seconds for name, seconds in self.seconds.items()},
        )


def decode_texts(backbone: Backbone, completions: Decoded) -> list[list[str]]:
    """The completions' texts: P lists of G."""
    return [
        [backbone.decode(row[keep.bool()].tolist()) for row, keep in zip(*group, strict=True)]
        for group in zip(completions.token_ids, completions.mask, strict=True)
    ]


def score_groups(
    texts: Sequence[Sequence[str]], clips: Sequence[Clip], rewards: Rewards
) -> list[list[Score]]:
    """The rewards of every completion, each given its clip: P lists of G."""
    return [
        [rewards.score(text, clip) for text in group]
        for group, clip in zip(texts, clips, strict=True)
    ]


def rewards_tensor(scores_PG: Sequence[Sequence[Score]]) -> Tensor:
    """The weighted rewards: (P, G) float32."""
    return torch.tensor([[score.reward for score in group] for group in scores_PG])


def rollout_metrics(completions: Decoded, scores_PG: Sequence[Sequence[Score]]) -> dict[str, float]:
    """What a practitioner watches: reward by function, zero-variance share, length, finished."""
    flat = [score for group in scores_PG for score in group]
    rewards_PG = rewards_tensor(scores_PG)
    flat_groups = rewards_PG.amax(dim=1) == rewards_PG.amin(dim=1)
    tokens = completions.mask.sum()
    parts = {
        f"reward/{name}": sum(score.parts[name] for score in flat) / len(flat)
        for name in flat[0].parts
    }
    return {
        "reward/total": float(rewards_PG.mean()),
        **parts,
        "rollout/zero_variance_groups": float(flat_groups.float().mean()),
        "rollout/completion_length": float(tokens / completions.finished.numel()),
        "rollout/finished": float(completions.finished.float().mean()),
    }
