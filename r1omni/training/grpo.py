"""GRPO with verifiable rewards: the stage that turns the cold start into R1-Omni.

arXiv 2503.05379, section 2: G completions per clip, reward = accuracy + format, advantages
relative to the group, a k3 KL to the frozen start. On-policy, one update per batch. The prompt runs
once per clip, with gradient; its keys and values serve sampling and the policy's forward alike.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from r1omni import prompts
from r1omni.config import MachineParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.machine.curves import Curves, Log
from r1omni.machine.interruption import Stopped, defer_sigterm
from r1omni.machine.progress import steps_bar, timed
from r1omni.machine.ranks import any_rank, gather, join_ranks
from r1omni.machine.state_folders import TrainingPaths, open_state, prune_states
from r1omni.model.backbone import Backbone, prefill_asked
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import INDEX, Features, FeatureStore
from r1omni.model.sampling import uniform_draws
from r1omni.rewards import PAPERS_REWARDS, Rewards
from r1omni.training.batches import balanced_shares, batch_at
from r1omni.training.checkpoints import load_parent, one_fold, save_checkpoint
from r1omni.training.engine import Engine, linear_decay, step_generator
from r1omni.training.group_loss import Compared, group_loss
from r1omni.training.held_out import HeldOutSet, set_aside
from r1omni.training.joint import Part, Row, joint_metrics
from r1omni.training.losses import advantages
from r1omni.training.modality_dropout import (
    NOTHING_MISSING,
    ModalityDropout,
    as_shown,
    modality_dropout,
)
from r1omni.training.recipe import fingerprint
from r1omni.training.reference import CopiedReference, Reference
from r1omni.training.reward_functions import load_rewards, reward_files
from r1omni.training.rollout_table import RolloutTable, rollout_rows
from r1omni.training.rollouts import (
    Rollouts,
    Sampler,
    SharedPrefixSampler,
    decode_texts,
    rewards_tensor,
    rollout_metrics,
    score_groups,
)
from r1omni.training_config import EngineParams, GRPOParams, HeldOutParams


@dataclass(frozen=True)
class Models:
    """The policy in training, its frozen start, and what samples from the policy."""

    policy: Backbone
    reference: Reference
    sampler: Sampler
    prefix: Literal["reuse", "recompute"] = "reuse"  # machine.prefix
    checkpointing: bool = False  # the backward pass makes the layers' inner states again
    rewards: Rewards = PAPERS_REWARDS
    dropout: ModalityDropout = NOTHING_MISSING


def run_grpo(
    cold_start: Path,
    manifests: Sequence[Path],
    features: Sequence[Path],
    evidence: Path,
    paths: TrainingPaths,
    *,
    grpo: GRPOParams,
    held_out: HeldOutParams,
    engine: EngineParams,
    machine: MachineParams,
    log: Log,
) -> None:
    """Train the cold start by GRPO on the labelled training clips of the manifests.

    `evidence`: what the judges know of these clips, for rewards that ask them.
    """
    listed = [clip for path in manifests for clip in read_manifest(path)]
    every_clip = without_rejects(listed, features)
    one_fold(every_clip, cold_start)
    join_ranks(machine)
    rest, watched = set_aside(every_clip, held_out)
    clips = [clip for clip in rest if clip.split == "train" and clip.label is not None]
    shares = balanced_shares([clip.label for clip in clips], grpo.balance)
    rewards = load_rewards(grpo, evidence, clips)
    store = FeatureStore(list(features))
    held_out_set = HeldOutSet(watched, store, "reasoned", grpo.max_new_tokens, held_out.every)
    inputs = [cold_start, *manifests, *(folder / INDEX for folder in features), evidence]
    inputs += reward_files(list(grpo.reward_weights))
    recipe = fingerprint([grpo, held_out, engine], inputs)
    paths = open_state(paths, recipe)
    policy = load_parent(cold_start)
    reference = CopiedReference(policy)
    sampler = SharedPrefixSampler(policy)
    models = Models(
        policy,
        reference,
        sampler,
        machine.prefix,
        machine.gradient_checkpointing,
        rewards,
        modality_dropout(policy, grpo.modality_dropout, grpo.seed),
    )
    trainer = Engine(
        policy.module,
        machine,
        dtype=engine.dtype,
        lr=grpo.lr,
        schedule=linear_decay(grpo.steps, grpo.warmup),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
    )
    reference.follow(policy)
    first = trainer.resume(paths.state, recipe) + 1
    curves = Curves(paths.state / "curves.jsonl", log)
    curves.rewind(first - 1)
    table = RolloutTable(paths.state)
    with steps_bar() as progress, defer_sigterm() as stopping:
        task = progress.add_task("grpo", total=grpo.steps)
        for step in range(first, grpo.steps + 1):
            batch = batch_at(clips, step, grpo.clips_per_step, grpo.seed, shares)
            metrics, rows = take_step(models, trainer, store, batch, grpo, step)
            held_out_metrics = held_out_set.evaluate_if_due(step, grpo.steps, policy)
            curves.log(step, {**metrics, **held_out_metrics})
            table.add(rows)
            stop = any_rank(stopping())
            if step < grpo.steps and (stop or step % machine.save_every == 0):
                table.save(step)
                trainer.save(paths.state, recipe)
                prune_states(paths.state)
            if step < grpo.steps and stop:
                raise Stopped(step)
            progress.update(task, completed=step, description=_headline(metrics))
    table.finish(grpo.steps)
    save_checkpoint(
        policy,
        paths,
        stage_params=grpo,
        mode="reasoned",
        parent=cold_start,
        clips=rest,
        data=read_origins(manifests, "train"),
        further=[held_out, engine],
    )


def take_step(
    models: Models,
    trainer: Engine,
    store: FeatureStore,
    batch: Sequence[Clip],
    grpo: GRPOParams,
    step: int,
) -> tuple[dict[str, float], list[Row]]:
    """One update from a global batch: the metrics and the rollouts of all ranks, on every rank."""
    began = time.perf_counter()
    own = learn_share(models, trainer, store, batch, grpo, step)
    seconds: dict[str, float] = {}
    with timed(seconds, "time/update"):
        optimised = trainer.update()
    seconds["time/step"] = time.perf_counter() - began
    ranks = gather(own)
    rows = [row for parts in ranks for part in parts for row in part.rows]
    return {**joint_metrics(ranks), **optimised, **seconds}, rows


def learn_share(
    models: Models,
    trainer: Engine,
    store: FeatureStore,
    batch: Sequence[Clip],
    grpo: GRPOParams,
    step: int,
) -> list[Part]:
    """The records of this rank's micro-batches; their gradients are in `trainer`."""
    parts = []
    for rolled in _rollouts(models, store, batch, trainer.shares(len(batch)), grpo, step):
        compared = learn(models, rolled, grpo)
        seconds: dict[str, float] = {}
        with timed(seconds, "time/backward"):
            names = [clip.clip_id for clip in rolled.clips]
            broken = [names[group] for group in compared.broken]
            trainer.backward(compared.loss, weight=len(names), clips=names, broken=broken)
        completions = rolled.completions
        parts.append(
            Part(
                {
                    **rollout_metrics(completions, rolled.scores),
                    **compared.metrics,
                    **rolled.seconds,
                    **seconds,
                },
                completions=completions.finished.numel(),
                tokens=int(completions.mask.sum()),
                scored=compared.scored,
                rows=rollout_rows(step, rolled),
            )
        )
        del rolled, completions, compared  # or they would stay beside the next micro-batch's
    return parts


def _rollouts(
    models: Models,
    store: FeatureStore,
    batch: Sequence[Clip],
    parts: Sequence[range],
    grpo: GRPOParams,
    step: int,
) -> Iterator[Rollouts]:
    """The micro-batches, rolled out one by one; with prefix: recompute, all together before.

    Decoding costs the less a row the more rows go through a weight at once, and without a graph
    they take little memory. `recompute` pays for that with the prompt's pass once more: on a CPU
    the two are about equal (benchmarks/RESULTS.md), where decoding waits for memory it gains.
    """

    def rolled(places: range) -> Rollouts:
        clips = [batch[place] for place in places]
        features = store.load([clip.clip_id for clip in clips])
        return roll_out(models, features, clips, grpo, step, places)

    if models.prefix == "reuse" or not parts:
        yield from map(rolled, parts)
        return
    first = parts[0].start
    together = rolled(range(first, parts[-1].stop))
    for places in parts:
        yield together.select([place - first for place in places])


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
    missing = models.dropout.missing(step, places)
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
    worth = advantages(
        rewards_tensor(scores),
        grpo.advantage,
        eps=grpo.advantage_eps,
        highest=sum(models.rewards.weights.values()),
    )
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


def learn(models: Models, rolled: Rollouts, grpo: GRPOParams) -> Compared:
    """The GRPO loss of what was rolled out, ready to step on."""
    return group_loss(
        models.policy,
        models.reference,
        rolled,
        temperature=grpo.temperature,
        kl_coef=grpo.kl_coef,
        checkpointing=models.checkpointing,
    )


def _headline(metrics: dict[str, float]) -> str:
    rewards = " ".join(
        f"{name.removeprefix('reward/')} {value:.2f}"
        for name, value in metrics.items()
        if name.startswith("reward/") and name != "reward/total"
    )
    return (
        f"grpo · {rewards} "
        f"kl {metrics['train/kl']:.3f} zero-variance {metrics['rollout/zero_variance_groups']:.2f}"
    )
