"""One step of GRPO: what is sampled, what is learned from it, and the step's record."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from r1omni.corpora.clip import Clip
from r1omni.machine.progress import timed
from r1omni.machine.ranks import gather
from r1omni.model.feature_store import FeatureStore
from r1omni.rewards import Score
from r1omni.training.dynamic_sampling import search_groups
from r1omni.training.engine import Engine
from r1omni.training.group_loss import Compared, nothing_compared
from r1omni.training.joint import MeanWeights, Part, Row, joint_metrics
from r1omni.training.losses import batch_scale
from r1omni.training.rolling_out import Models, learn, roll_out
from r1omni.training.rollout_table import rollout_rows
from r1omni.training.rollouts import Rollouts, rollout_metrics
from r1omni.training_config import GRPOParams

Draw = Callable[[int], Sequence[Clip]]  # the global batch of a step's round, from 0


def take_step(
    models: Models,
    trainer: Engine,
    store: FeatureStore,
    draw: Draw,
    grpo: GRPOParams,
    step: int,
) -> tuple[dict[str, float], list[Row]]:
    """One step from a global batch: the metrics and the rollouts of all ranks, on every rank.

    It updates the weights once, or `grpo.updates_per_batch` times from the same rollouts.
    """
    began = time.perf_counter()
    kept: list[Rollouts] | None = [] if grpo.updates_per_batch > 1 else None
    own = learn_share(models, trainer, store, draw, grpo, step, kept)
    seconds: dict[str, float] = {}
    with timed(seconds, "time/update"):
        optimised = trainer.update()
    ranks = gather(own)
    metrics = joint_metrics(ranks)
    for _ in range(1, grpo.updates_per_batch):
        again = [_learn_again(models, trainer, rolled, grpo) for rolled in kept or ()]
        metrics |= joint_metrics(gather(again))
        optimised = trainer.update()
    seconds["time/step"] = time.perf_counter() - began
    rows = [row for parts in ranks for part in parts for row in part.rows]
    found = {**metrics, **optimised, **seconds}
    return {key: value for key, value in found.items() if math.isfinite(value)}, rows


def learn_share(
    models: Models,
    trainer: Engine,
    store: FeatureStore,
    draw: Draw,
    grpo: GRPOParams,
    step: int,
    kept: list[Rollouts] | None = None,
) -> list[Part]:
    """The records of this rank's micro-batches; their gradients are in `trainer`.

    `kept` receives their rollouts, for further updates.
    """
    chosen: Iterable[Rollouts]
    if grpo.dynamic_sampling.max_factor > 1:
        parts, chosen = _search(models, store, draw, trainer, grpo, step)
        counted = False
    else:
        parts, batch, counted = [], draw(0), True
        sampling = replace(models, prefix="recompute") if grpo.advantage == "batch" else models
        chosen = _rollouts(sampling, store, batch, trainer.shares(len(batch)), grpo, step)
        if grpo.advantage == "batch":
            together = list(chosen)
            scale = _batch_scale([group for r in together for group in r.scores], grpo)
            chosen = _scaled(together, scale)
    for rolled in chosen:
        compared = learn(models, rolled, grpo)
        seconds = _backward(trainer, rolled, compared)
        parts.append(_part(rolled, step, compared.metrics | seconds, compared.scored, counted))
        if kept is not None:
            kept.append(replace(rolled, prefix=None))
        del rolled, compared  # or they would stay beside the next micro-batch's
    return parts


def _search(
    models: Models,
    store: FeatureStore,
    draw: Draw,
    trainer: Engine,
    grpo: GRPOParams,
    step: int,
) -> tuple[list[Part], Iterator[Rollouts]]:
    """Dynamic sampling: the records of all that was sampled, and the micro-batches to learn."""
    n = grpo.clips_per_step
    sampling = replace(models, prefix="recompute")

    def roll(number: int, places: Sequence[int]) -> Rollouts:
        batch = draw(number)
        clips = [batch[place] for place in places]
        features = store.load([clip.clip_id for clip in clips])
        return roll_out(sampling, features, clips, grpo, step, [number * n + p for p in places])

    shares = trainer.shares(n)
    own = [place for share in shares for place in share]
    teaches = partial(_teaches, mask_truncated=grpo.mask_truncated)
    searched = search_groups(roll, teaches, own, n, grpo.dynamic_sampling.max_factor)
    size, every = max(map(len, shares), default=1), searched.rolled
    if grpo.advantage == "batch":
        kept = [
            r.scores[i] for r, picked in zip(every, searched.chosen, strict=True) for i in picked
        ]
        every = _scaled(every, _batch_scale(kept, grpo))

    def chosen() -> Iterator[Rollouts]:
        for rolled, groups in zip(every, searched.chosen, strict=True):
            for start in range(0, len(groups), size):
                yield replace(rolled.select(groups[start : start + size]), seconds={})

    nothing = nothing_compared(models.reference)
    parts = [_part(rolled, step, nothing, MeanWeights(0, 0), counted=True) for rolled in every]
    return parts, chosen()


def _teaches(rolled: Rollouts, *, mask_truncated: bool) -> list[bool]:
    """Which groups have a completion with an advantage that is learned from."""
    counts = rolled.advantages.ne(0.0)
    if mask_truncated:
        counts = counts & rolled.completions.finished
    teaching: list[bool] = counts.any(dim=1).tolist()
    return teaching


def _batch_scale(own: Sequence[Sequence[Score]], grpo: GRPOParams) -> float:
    """What advantages are multiplied by: from the std of all ranks' rewards of the groups kept.

    Every rank calls it. The rewards are sorted, so the std is the same on any number of ranks.
    """
    rewards = [score.reward for group in own for score in group]
    return batch_scale(sorted(r for part in gather(rewards) for r in part), grpo.advantage_eps)


def _scaled(own: Sequence[Rollouts], scale: float) -> list[Rollouts]:
    return [replace(rolled, advantages=rolled.advantages * scale) for rolled in own]


def _backward(trainer: Engine, rolled: Rollouts, compared: Compared) -> dict[str, float]:
    """Hand the micro-batch's gradient to the trainer; the seconds that it took."""
    seconds: dict[str, float] = {}
    with timed(seconds, "time/backward"):
        names = [clip.clip_id for clip in rolled.clips]
        broken = [names[group] for group in compared.broken]
        trainer.backward(compared.loss, weight=compared.weight, clips=names, broken=broken)
    return seconds


def _part(
    rolled: Rollouts,
    step: int,
    metrics: Mapping[str, float],
    scored: MeanWeights,
    counted: bool,
) -> Part:
    """The record of a micro-batch, with the metrics of what was `scored`.

    Under dynamic sampling what is sampled and what is learned from it (not `counted`) have records
    of their own, so that means over completions are over all that were sampled.
    """
    completions = rolled.completions
    return Part(
        {
            **rollout_metrics(completions, rolled.scores),
            **dict.fromkeys(("time/prefill", "time/sample", "time/backward"), 0.0),
            **rolled.seconds,
            **metrics,
        },
        completions=completions.finished.numel() if counted else 0,
        tokens=int(completions.mask.sum()) if counted else 0,
        scored=scored,
        rows=rollout_rows(step, rolled) if counted else [],
    )


def _learn_again(models: Models, trainer: Engine, rolled: Rollouts, grpo: GRPOParams) -> Part:
    """A further update's gradient of rollouts that an earlier policy sampled."""
    compared = learn(models, rolled, grpo, on_policy=False)
    _backward(trainer, rolled, compared)
    share = {"train/clipped": compared.metrics.get("train/clipped", 0.0)}
    return Part(share, rolled.completions.finished.numel(), 0, compared.scored, [])


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
