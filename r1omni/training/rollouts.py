"""Rollouts: a group of completions per clip, with logprobs, rewards and advantages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.corpora.clip import Clip
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.prompting import PromptBatch
from r1omni.model.sampling import decode, uniform_draws
from r1omni.model.shared_prefix import Prefix
from r1omni.rewards import Score, score_completion


@dataclass(frozen=True)
class Groups:
    """G sampled completions for each of P prompts."""

    token_ids: Tensor  # (P, G, T)
    old_logprobs: Tensor  # (P, G, T) float32, at sampling
    completion_mask: Tensor  # (P, G, T)
    finished: Tensor  # (P, G)
    texts: list[list[str]]  # P lists of G

    def select(self, prompts: slice) -> "Groups":
        """The groups of neighbouring prompts, as short as their longest completion."""
        length = int(self.completion_mask[prompts].sum(dim=2).max())
        ids, logprobs, mask = (
            x[prompts, :, :length]
            for x in (self.token_ids, self.old_logprobs, self.completion_mask)
        )
        return Groups(ids, logprobs, mask, self.finished[prompts], self.texts[prompts])


@dataclass(frozen=True)
class RolledOut:
    """Groups of completions with their rewards, and what they were sampled from."""

    clips: Sequence[Clip]
    asked: PromptBatch
    prefix: Prefix | None  # the policy's, with its graph; None: the prompts run again for the loss
    groups: Groups
    scores: list[list[Score]]
    advantages: torch.Tensor  # (P, G)
    seconds: dict[str, float]

    def select(self, clips: slice) -> "RolledOut":
        """What was rolled out of neighbouring clips, with their share of the seconds."""
        chosen = self.clips[clips]
        index = torch.arange(len(self.clips), device=self.asked.input_ids.device)[clips]
        part = len(chosen) / len(self.clips)
        return RolledOut(
            chosen,
            self.asked.select(index),
            None if self.prefix is None else self.prefix.select(index),
            self.groups.select(clips),
            self.scores[clips],
            self.advantages[clips],
            {name: part * seconds for name, seconds in self.seconds.items()},
        )


def sample_groups(
    policy: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    prefix: Prefix,
    *,
    group_size: int,
    temperature: float,
    max_new_tokens: int,
    generators: Sequence[torch.Generator],
) -> Groups:
    """G completions per prefilled prompt from the full distribution at `temperature`.

    Each prompt draws from a generator of its own.
    """
    decoded = decode(
        policy,
        prefix,
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        eos_token_id=processor.eos_token_ids,
        temperature=temperature,
        draws=uniform_draws(generators, group_size, max_new_tokens),
    )
    texts = [
        [processor.decode(row[keep.bool()].tolist()) for row, keep in zip(*group, strict=True)]
        for group in zip(decoded.token_ids, decoded.mask, strict=True)
    ]
    return Groups(decoded.token_ids, decoded.logprobs, decoded.mask, decoded.finished, texts)


def score_groups(
    groups: Groups, labels: Sequence[str], weights: Mapping[str, float]
) -> list[list[Score]]:
    """The rewards of every completion against its clip's label: P lists of G."""
    return [
        [score_completion(text, label, weights) for text in texts]
        for texts, label in zip(groups.texts, labels, strict=True)
    ]


def rewards_tensor(scores_PG: Sequence[Sequence[Score]]) -> Tensor:
    """The weighted rewards: (P, G) float32."""
    return torch.tensor([[score.reward for score in group] for group in scores_PG])


def rollout_metrics(groups: Groups, scores_PG: Sequence[Sequence[Score]]) -> dict[str, float]:
    """What a practitioner watches: reward by function, zero-variance share, length, finished."""
    flat = [score for group in scores_PG for score in group]
    rewards_PG = rewards_tensor(scores_PG)
    flat_groups = rewards_PG.amax(dim=1) == rewards_PG.amin(dim=1)
    tokens = groups.completion_mask.sum()
    parts = {
        f"reward/{name}": sum(score.parts[name] for score in flat) / len(flat)
        for name in flat[0].parts
    }
    return {
        "reward/total": float(rewards_PG.mean()),
        **parts,
        "rollout/zero_variance_groups": float(flat_groups.float().mean()),
        "rollout/completion_length": float(tokens / groups.finished.numel()),
        "rollout/finished": float(groups.finished.float().mean()),
    }
