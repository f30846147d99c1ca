"""GRPO with verifiable rewards: the stage that turns the cold start into R1-Omni.

arXiv 2503.05379, section 2: G completions per clip, reward = accuracy + format, advantages
relative to the group, a k3 KL to the frozen start. On-policy, one update per batch. The prompt runs
once per clip, with gradient; its keys and values serve sampling and the policy's forward alike.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from r1omni.config import MachineParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.machine.curves import Log
from r1omni.machine.ranks import gather, join_ranks
from r1omni.machine.state_folders import TrainingPaths, open_state
from r1omni.model.backbone import Backbone
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import INDEX, FeatureStore
from r1omni.own_code import file_hashes
from r1omni.prompts import instruction
from r1omni.rewards import Rewards
from r1omni.training.batches import balanced_shares, batch_at
from r1omni.training.checkpoints import load_parent, one_fold, save_checkpoint
from r1omni.training.engine import Engine
from r1omni.training.held_out import HeldOutSet, set_aside
from r1omni.training.loop import run_steps
from r1omni.training.memory import announce_memory
from r1omni.training.modality_dropout import modality_dropout
from r1omni.training.recipe import fingerprint
from r1omni.training.reference import AdapterAtStart, CopiedReference
from r1omni.training.reward_functions import load_rewards, reward_files
from r1omni.training.rolling_out import Models
from r1omni.training.rollout_table import RolloutTable
from r1omni.training.rollouts import SharedPrefixSampler
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

    `evidence`: what the judges know of these clips, for rewards that ask them. Raises ValueError
    before the first step: if no labelled clip is there to train on, or if a reward cannot be used.
    """
    clips, rest, watched = _divide(manifests, features, held_out, cold_start, machine)
    shares = balanced_shares([clip.label for clip in clips], grpo.balance)
    rewards = load_rewards(grpo, evidence, clips)
    store = FeatureStore(list(features))
    inputs = [cold_start, *manifests, *(folder / INDEX for folder in features), evidence]
    users_code = file_hashes(reward_files(list(grpo.reward_weights)))
    # the first rank's: another may have imported other files of the user's
    recipe = gather(fingerprint([grpo, held_out, engine], [*inputs, *users_code]))[0]
    paths = open_state(paths, recipe)
    policy = load_parent(cold_start, engine.adapter, grpo.seed)
    models = _models(policy, rewards, grpo, engine, machine)
    trainer = _trainer(models, grpo, engine, machine)
    _announce(models, store, clips, grpo, engine, machine)
    held_out_set = HeldOutSet(watched, store, "reasoned", grpo.max_new_tokens, held_out.every)
    table = RolloutTable(paths.state)

    def take(step: int) -> dict[str, float]:
        draw = partial(_batch, clips, shares, grpo, step)
        metrics, rows = take_step(models, trainer, store, draw, grpo, step)
        table.add(rows)
        return {**metrics, **held_out_set.evaluate_if_due(step, grpo.steps, policy)}

    run_steps(
        take,
        grpo.steps,
        trainer,
        paths,
        recipe=recipe,
        machine=machine,
        log=log,
        headline=_headline,
        updates_per_step=grpo.updates_per_batch,
        save_more=table.save,
    )
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
        users_code=users_code,
    )


def _divide(
    manifests: Sequence[Path],
    features: Sequence[Path],
    held_out: HeldOutParams,
    cold_start: Path,
    machine: MachineParams,
) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """The labelled clips to train on, all that are not held out, and those that are."""
    listed = [clip for path in manifests for clip in read_manifest(path)]
    every_clip = without_rejects(listed, features)
    one_fold(every_clip, cold_start)
    join_ranks(machine)
    rest, watched = set_aside(every_clip, held_out)
    clips = [clip for clip in rest if clip.split == "train" and clip.label is not None]
    if not clips:
        raise ValueError(f"no labelled training clips in {', '.join(map(str, manifests))}")
    return clips, rest, watched


def _models(
    policy: Backbone,
    rewards: Rewards,
    grpo: GRPOParams,
    engine: EngineParams,
    machine: MachineParams,
) -> Models:
    """The policy with its frozen start, its sampler and what scores it."""
    start = CopiedReference if engine.adapter is None else AdapterAtStart
    return Models(
        policy,
        start(policy) if grpo.kl_coef > 0.0 else None,
        SharedPrefixSampler(policy),
        machine.prefix,
        machine.gradient_checkpointing,
        rewards,
        modality_dropout(policy, grpo.modality_dropout, grpo.seed),
    )


def _trainer(
    models: Models, grpo: GRPOParams, engine: EngineParams, machine: MachineParams
) -> Engine:
    """The engine of the policy; the reference follows it to its device and precision."""
    trainer = Engine(
        models.policy.module,
        machine,
        dtype=engine.dtype,
        lr=grpo.lr,
        schedule=linear_decay(grpo.steps * grpo.updates_per_batch, grpo.warmup),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
        skip_nonfinite=engine.skip_nonfinite,
        updates_per_step=grpo.updates_per_batch,
    )
    if models.reference is not None:
        models.reference.follow(models.policy)
    return trainer


def _announce(
    models: Models,
    store: FeatureStore,
    clips: Sequence[Clip],
    grpo: GRPOParams,
    engine: EngineParams,
    machine: MachineParams,
) -> None:
    """Say what memory the longest prompt will need."""
    longest = store.load([store.largest([clip.clip_id for clip in clips])])
    announce_memory(
        "grpo",
        models.policy,
        machine,
        dtype=engine.dtype,
        example=models.policy.ask(longest, [instruction("reasoned")]),
        clips=grpo.clips_per_step,
        completion=grpo.group_size * grpo.max_new_tokens,
        has_reference=models.reference is not None and engine.adapter is None,
        samples=True,
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


def _headline(metrics: Mapping[str, float]) -> str:
    rewards = " ".join(
        f"{name.removeprefix('reward/')} {value:.2f}"
        for name, value in metrics.items()
        if name.startswith("reward/") and name != "reward/total"
    )
    kl = f" kl {metrics['train/kl']:.3f}" if "train/kl" in metrics else ""
    flat = metrics["rollout/zero_variance_groups"]
    return f"{rewards}{kl} zero-variance {flat:.2f}"
