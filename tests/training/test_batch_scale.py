"""`advantage: batch`: the group's mean, the std of the step's batch, on any number of ranks."""

import statistics
from pathlib import Path

import pandas as pd
import pytest
import torch
import toy
from forked import Ranks, train

from r1omni.machine.curves import read_curves
from r1omni.rewards import Rewards
from r1omni.training import step as stage
from r1omni.training.checkpoints import load_parent
from r1omni.training.losses import advantages, batch_scale
from r1omni.training_config import ROLLOUT_COLUMNS, DynamicSamplingParams

GRPO = {"steps": 3, "advantage": "batch", "clips_per_step": 4, "lr": 1e-2, "temperature": 1.0}


def test_by_hand():
    """Two groups: 1, 0, 0, 0 and 0, 0, 0, 0. The mean of all is 1/8, their variance .875 / 7."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    centred = advantages(rewards, "batch", eps=1e-4, highest=2.0)
    assert centred.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.0, 0.0, 0.0, 0.0]]
    scale = batch_scale(rewards.flatten().tolist(), 1e-4)
    assert scale == pytest.approx(1 / (0.125**0.5 + 1e-4), rel=1e-12)
    assert (0.75 * scale, -0.25 * scale) == pytest.approx((2.1207, -0.7069), abs=5e-5)


def test_a_batch_without_variance_moves_nothing():
    rewards = torch.ones(2, 2)
    centred = advantages(rewards, "batch", eps=1e-4, highest=2.0)
    assert (centred * batch_scale([1.0] * 4, 1e-4)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def train_by_length(world: Path, folder: Path, machine: dict[str, object]) -> None:
    """GRPO with a reward that differs in most groups."""
    from r1omni.training import grpo

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "load_rewards", lambda *_: toy.BY_LENGTH)
        train("grpo", world, folder, machine, GRPO)


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> Path:
    """One process that learns from one clip at a time."""
    folder = tmp_path_factory.mktemp("alone")
    train_by_length(world, folder, {"processes": 1, "micro_batch_size": 1})
    return folder


def test_every_micro_batch_is_scaled_by_the_whole_batch(alone):
    rows = pd.read_parquet(alone / "training" / "rollouts.parquet")
    assert set(rows.columns) == {*ROLLOUT_COLUMNS, *toy.BY_LENGTH.weights}
    n_steps = 0
    for _, step in rows.groupby("step"):
        if len(step) < 4 * 4:  # a clip that was drawn twice is in the table once
            continue
        scale = 1 / (statistics.stdev(step.reward) + 1e-4)
        means = step.groupby("clip_id").reward.transform("mean")
        assert step.advantage.tolist() == pytest.approx(
            ((step.reward - means) * scale).tolist(), abs=1e-5
        )
        by_group = step.groupby("clip_id").reward.std()
        n_steps += by_group[by_group > 0].nunique() > 1  # else it would be `group` up to a factor
    assert n_steps > 0


def test_with_dynamic_sampling_the_table_has_the_advantages_that_were_learned_from(
    world, tmp_path, monkeypatch
):
    from r1omni.training import grpo

    def for_some(text, clip):  # the other clips' groups are flat
        return float(len(text) % 2 and int(clip.clip_id[-1]) % 2)

    rewards = Rewards({"some": for_some}, {"some": 1.0})
    monkeypatch.setattr(grpo, "load_rewards", lambda *_: rewards)
    learned, whole = {}, stage.learn

    def watched(models, rolled, grpo, **how):
        for clip, scores, worth in zip(
            rolled.clips, rolled.scores, rolled.advantages.tolist(), strict=True
        ):
            learned[clip.clip_id] = ([score.reward for score in scores], worth)
        return whole(models, rolled, grpo, **how)

    monkeypatch.setattr(stage, "learn", watched)
    toy.train_grpo(
        world, tmp_path, toy.machine_params(processes=1),
        toy.grpo_params(**GRPO | {"steps": 1, "clips_per_step": 2},
                        dynamic_sampling=DynamicSamplingParams(max_factor=4)),
        lambda *_: None,
    )  # fmt: skip
    rewards = [reward for own, _ in learned.values() for reward in own]
    scale = 1 / (statistics.stdev(rewards) + 1e-4)  # of the kept groups
    rows = pd.read_parquet(tmp_path / "training" / "rollouts.parquet").groupby("clip_id")
    assert len(learned) == 2 < rows.ngroups
    for clip_id, (own, worth) in learned.items():
        expected = [(reward - statistics.fmean(own)) * scale for reward in own]
        assert worth == pytest.approx(expected, abs=1e-5)
        assert rows.get_group(clip_id).advantage.tolist() == pytest.approx(worth)


@pytest.mark.parametrize("how", [{}, {"zero_stage": 2}])
def test_ranks_learn_what_one_process_learns(alone, world, tmp_path, how):
    codes = Ranks(tmp_path, 2, train_by_length, world, tmp_path, how).wait()
    assert codes == [0, 0], (tmp_path / "said-1").read_text()[-3000:]
    expected, found = (read_curves(f / "training" / "curves.jsonl") for f in (alone, tmp_path))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("train/loss", "optim/grad_norm", "reward/total"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4, abs=1e-6), name
    ours, theirs = (load_parent(f / "checkpoint").module.state_dict() for f in (tmp_path, alone))
    start = load_parent(world / "parent").module.state_dict()
    assert any(not torch.equal(theirs[name], start[name]) for name in start)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=2e-4)
