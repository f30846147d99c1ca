"""GRPO with verifiable rewards: the stage that turns the cold start into R1-Omni.

arXiv 2503.05379, section 2: G completions per clip, reward = accuracy + format, advantages
relative to the group, a k3 KL to the frozen start. On-policy, one update per batch. The prompt runs
once per clip, with gradient; its keys and values serve sampling and the policy's forward alike.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from r1omni import prompts
from r1omni.config import EngineParams, GRPOParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_store import FeatureBatch, FeatureStore
from r1omni.model.prompting import prefill_prompts
from r1omni.model.sampling import score_completions
from r1omni.rewards import Score
from r1omni.training.batches import balanced_shares, batch_at
from r1omni.training.checkpoints import load_parent, one_fold, save_checkpoint
from r1omni.training.engine import Engine, linear_decay, step_generator
from r1omni.training.journal import Curves, Log, TrainingPaths, fingerprint, open_state
from r1omni.training.losses import group_advantages, grpo_loss
from r1omni.training.rollout_table import RolloutTable
from r1omni.training.rollouts import (
    Groups,
    rewards_tensor,
    rollout_metrics,
    sample_groups,
    score_groups,
)


@dataclass(frozen=True)
class Models:
    """The policy in training, its frozen start, and what both read prompts with."""

    policy: HumanOmniForConditionalGeneration
    reference: HumanOmniForConditionalGeneration
    processor: HumanOmniProcessor


@dataclass(frozen=True)
class Learned:
    """One step's loss with everything that is recorded of it."""

    loss: torch.Tensor
    groups: Groups
    scores: list[list[Score]]
    advantages: torch.Tensor  # (P, G)
    metrics: dict[str, float]


def run_grpo(
    cold_start: Path,
    manifests: Sequence[Path],
    features: Sequence[Path],
    paths: TrainingPaths,
    *,
    grpo: GRPOParams,
    engine: EngineParams,
    log: Log,
) -> None:
    """Train the cold start by GRPO on the labelled training clips of the manifests."""
    every_clip = [clip for path in manifests for clip in read_manifest(path)]
    one_fold(every_clip, cold_start)
    clips = [clip for clip in every_clip if clip.split == "train" and clip.label is not None]
    shares = balanced_shares([(clip.corpus, clip.label) for clip in clips], grpo.balance)
    store = FeatureStore(list(features))
    recipe = fingerprint([grpo, engine], [cold_start, *manifests])
    open_state(paths.state, recipe)
    policy, processor = load_parent(cold_start)
    models = Models(policy, deepcopy(policy).requires_grad_(False), processor)
    trainer = Engine(
        policy,
        engine,
        lr=grpo.lr,
        schedule=linear_decay(grpo.steps, grpo.warmup),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
    )
    models.reference.to(trainer.device)
    first = trainer.resume(paths.state, recipe) + 1
    curves = Curves(paths.state / "curves.jsonl", log)
    curves.rewind(first - 1)
    table = RolloutTable(paths.state)
    table.rewind(first - 1)
    with Progress(transient=True) as progress:
        task = progress.add_task("grpo", total=grpo.steps)
        for step in range(first, grpo.steps + 1):
            batch = batch_at(clips, step, grpo.clips_per_step, grpo.seed, shares)
            began = time.perf_counter()
            learned = learn(models, store.load([c.clip_id for c in batch]), batch, grpo, step)
            optimised = trainer.step(learned.loss)
            seconds = {"time/step": time.perf_counter() - began}
            curves.log(step, {**learned.metrics, **optimised, **seconds})
            table.add(step, batch, learned.groups, learned.scores, learned.advantages)
            if step % engine.save_every == 0 and step < grpo.steps:
                table.save(step)
                trainer.save(paths.state, recipe)
            progress.update(task, completed=step, description=_headline(learned.metrics))
    table.finish(grpo.steps)
    save_checkpoint(
        policy,
        processor,
        paths,
        stage_params=grpo,
        mode="reasoned",
        parent=cold_start,
        clips=every_clip,
    )


def learn(
    models: Models, features: FeatureBatch, batch: Sequence[Clip], grpo: GRPOParams, step: int
) -> Learned:
    """Sample, score, compare: the GRPO loss of one batch of clips, ready to step on."""
    question = prompts.instruction("reasoned")
    instructions = [question] * len(batch)
    seconds: dict[str, float] = {}
    with _timed(seconds, "time/prefill"):
        prefix = prefill_prompts(models.policy, models.processor, features, instructions)
    with _timed(seconds, "time/sample"):
        groups = sample_groups(
            models.policy,
            models.processor,
            prefix,
            group_size=grpo.group_size,
            temperature=grpo.temperature,
            max_new_tokens=grpo.max_new_tokens,
            generator=step_generator(grpo.seed, step),
        )
    labels = [str(clip.label) for clip in batch]
    scores = score_groups(groups, labels, grpo.reward_weights)
    advantages = group_advantages(rewards_tensor(scores), grpo.advantage_eps)
    ids, mask = groups.token_ids, groups.completion_mask
    with _timed(seconds, "time/reference"), torch.no_grad():
        ref_prefix = prefill_prompts(models.reference, models.processor, features, instructions)
        ref_logprobs, _ = score_completions(
            models.reference, ref_prefix, ids, mask, temperature=grpo.temperature
        )
    with _timed(seconds, "time/policy"):
        logprobs, entropy = score_completions(
            models.policy, prefix, ids, mask, temperature=grpo.temperature
        )
    loss, metrics = grpo_loss(
        logprobs.flatten(0, 1),
        ref_logprobs.flatten(0, 1),
        advantages.flatten().to(logprobs.device),
        mask.flatten(0, 1),
        kl_coef=grpo.kl_coef,
    )
    watched = {
        **rollout_metrics(groups, scores, entropy),
        **{name: float(value) for name, value in metrics.items()},
        **seconds,
    }
    return Learned(loss, groups, scores, advantages, watched)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def _headline(metrics: dict[str, float]) -> str:
    return (
        f"accuracy {metrics['reward/accuracy']:.2f} format {metrics['reward/format']:.2f} "
        f"kl {metrics['train/kl']:.3f} zero-variance {metrics['rollout/zero_variance_groups']:.2f}"
    )
