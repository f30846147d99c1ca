"""GRPO with verifiable rewards: the stage that turns the cold start into R1-Omni.

arXiv 2503.05379, section 2: G completions per clip, reward = accuracy + format, advantages
relative to the group, a k3 KL to the frozen start. On-policy, one update per batch. The prompt runs
once per clip, with gradient; its keys and values serve sampling and the policy's forward alike.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from r1omni.config import MachineParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.machine.curves import Curves, Log
from r1omni.machine.interruption import Stopped, defer_sigterm
from r1omni.machine.progress import steps_bar
from r1omni.machine.ranks import any_rank, join_ranks
from r1omni.machine.state_folders import TrainingPaths, open_state, prune_states
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import INDEX, FeatureStore
from r1omni.prompts import instruction
from r1omni.training.batches import balanced_shares, batch_at
from r1omni.training.checkpoints import load_parent, one_fold, save_checkpoint
from r1omni.training.engine import Engine
from r1omni.training.held_out import HeldOutSet, set_aside
from r1omni.training.memory import announce_memory
from r1omni.training.modality_dropout import (
    modality_dropout,
)
from r1omni.training.recipe import fingerprint
from r1omni.training.reference import AdapterAtStart, CopiedReference
from r1omni.training.reward_functions import load_rewards, reward_files
from r1omni.training.rolling_out import Models
from r1omni.training.rollout_table import RolloutTable
from r1omni.training.rollouts import (
    SharedPrefixSampler,
)
from r1omni.training.schedules import linear_decay
from r1omni.training.step import take_step
from r1omni.training_config import EngineParams, GRPOParams, HeldOutParams


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
    if not clips:
        raise ValueError(f"no labelled training clips in {', '.join(map(str, manifests))}")
    shares = balanced_shares([clip.label for clip in clips], grpo.balance)
    rewards = load_rewards(grpo, evidence, clips)
    store = FeatureStore(list(features))
    held_out_set = HeldOutSet(watched, store, "reasoned", grpo.max_new_tokens, held_out.every)
    inputs = [cold_start, *manifests, *(folder / INDEX for folder in features), evidence]
    inputs += reward_files(list(grpo.reward_weights))
    recipe = fingerprint([grpo, held_out, engine], inputs)
    paths = open_state(paths, recipe)
    policy = load_parent(cold_start, engine.adapter, grpo.seed)
    start = CopiedReference if engine.adapter is None else AdapterAtStart
    reference = start(policy) if grpo.kl_coef > 0.0 else None
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
        schedule=linear_decay(grpo.steps * grpo.updates_per_batch, grpo.warmup),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
        skip_nonfinite=engine.skip_nonfinite,
    )
    if reference is not None:
        reference.follow(policy)
    announce_memory(
        "grpo",
        policy,
        machine,
        dtype=engine.dtype,
        example=policy.ask(
            store.load([store.largest([clip.clip_id for clip in clips])]), [instruction("reasoned")]
        ),
        clips=grpo.clips_per_step,
        completion=grpo.group_size * grpo.max_new_tokens,
        has_reference=reference is not None and engine.adapter is None,
        samples=True,
    )
    first = trainer.resume(paths.state, recipe) // grpo.updates_per_batch + 1
    curves = Curves(paths.state / "curves.jsonl", log)
    curves.rewind(first - 1)
    table = RolloutTable(paths.state)
    with steps_bar() as progress, defer_sigterm() as stopping:
        task = progress.add_task("grpo", total=grpo.steps)
        for step in range(first, grpo.steps + 1):
            metrics, rows = take_step(
                models, trainer, store, partial(_batch, clips, shares, grpo, step), grpo, step
            )
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


def _batch(
    clips: Sequence[Clip],
    shares: tuple[float, ...] | None,
    grpo: GRPOParams,
    step: int,
    number: int,
) -> Sequence[Clip]:
    """The clips of a step's round; only dynamic sampling has rounds after 0."""
    at = (step - 1) * grpo.dynamic_sampling.max_factor + 1 + number
    return batch_at(clips, at, grpo.clips_per_step, grpo.seed, shares)


def _headline(metrics: dict[str, float]) -> str:
    rewards = " ".join(
        f"{name.removeprefix('reward/')} {value:.2f}"
        for name, value in metrics.items()
        if name.startswith("reward/") and name != "reward/total"
    )
    kl = f" kl {metrics['train/kl']:.3f}" if "train/kl" in metrics else ""
    flat = metrics["rollout/zero_variance_groups"]
    return f"grpo · {rewards}{kl} zero-variance {flat:.2f}"
