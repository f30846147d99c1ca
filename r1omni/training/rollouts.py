"""Rollouts: a group of completions per clip, with logprobs, rewards and advantages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
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
        eos_token_id=processor.eos_token_id,
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
