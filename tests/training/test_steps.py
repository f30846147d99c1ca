"""Steps with several updates, without a reference, with dynamic sampling, past a bad update."""

import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import toy

from r1omni.training import step as stage
from r1omni.training.checkpoints import load_parent
from r1omni.training.dynamic_sampling import search_groups
from r1omni.training.engine import Engine, NonFiniteLoss
from r1omni.training_config import DynamicSamplingParams


def curves_of(world, folder, **grpo):
    lines = []
    toy.train_grpo(
        world, folder, toy.machine_params(processes=1), toy.grpo_params(**grpo),
        lambda _step, metrics: lines.append(dict(metrics)),
    )  # fmt: skip
    return lines


def weights_of(folder):
    return load_parent(folder / "checkpoint").module.state_dict()


def test_two_updates_a_batch_clip_the_second_and_resume_at_their_step(world, tmp_path):
    whole = curves_of(world, tmp_path / "whole", steps=4, updates_per_batch=2, lr=3e-2)
    assert [line["train/clipped"] >= 0.0 for line in whole] == [True] * 4
    assert any(line["train/clipped"] > 0.0 for line in whole)
    once = curves_of(world, tmp_path / "once", steps=4, lr=3e-2)
    assert all("train/clipped" not in line for line in once)
    one, two = weights_of(tmp_path / "once"), weights_of(tmp_path / "whole")
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_without_a_kl_term_there_is_no_reference_and_no_kl(world, tmp_path, monkeypatch):
    from r1omni.training import grpo

    monkeypatch.setattr(grpo, "CopiedReference", lambda _: pytest.fail("a copy was made"))
    lines = curves_of(world, tmp_path, steps=2, kl_coef=0.0)
    assert all("train/kl" not in line for line in lines)


class Groups:
    """Rollouts whose groups differ where they are told to."""

    def __init__(self, differ):
        self.advantages = torch.tensor([[1.0, -1.0] if d else [0.0, 0.0] for d in differ])


teaches = partial(stage._teaches, mask_truncated=False)


def test_a_group_of_truncated_completions_teaches_nothing_where_these_are_masked():
    rolled = Groups([True, True, False])
    finished = torch.tensor([[False, True], [False, False], [True, True]])
    rolled.completions = SimpleNamespace(finished=finished)
    assert stage._teaches(rolled, mask_truncated=True) == [True, False, False]
    assert stage._teaches(rolled, mask_truncated=False) == [True, True, False]


def test_sampling_goes_on_until_enough_groups_differ():
    differ = [[False, True, False], [True, True, False], [True, True, True]]
    rounds = []

    def roll(number, places):
        rounds.append((number, list(places)))
        return Groups([differ[number][place] for place in places])

    found = search_groups(roll, teaches, [0, 1, 2], n=3, max_factor=3)
    assert rounds == [(0, [0, 1, 2]), (1, [0, 1, 2])]
    assert found.chosen == [[1], [0, 1]]
    assert search_groups(roll, teaches, [0, 1, 2], n=2, max_factor=3).chosen == [[1], [0]]
    assert search_groups(roll, teaches, [0, 1, 2], n=3, max_factor=1).chosen == [[1]]


def test_where_no_group_differs_the_first_rounds_are_kept_for_their_kl():
    def nothing(_number, _places):
        return Groups([False] * 2)

    found = search_groups(nothing, teaches, [0, 1], n=2, max_factor=2)
    assert found.chosen == [[0, 1], []]


def test_dynamic_sampling_learns_from_groups_that_differ_and_counts_all_it_sampled(
    world, tmp_path, monkeypatch
):
    from r1omni.training import grpo

    monkeypatch.setattr(grpo, "load_rewards", lambda *_: toy.BY_LENGTH)
    learned, whole = [], stage.learn

    def watched(models, rolled, grpo, **how):
        learned.append(rolled)
        return whole(models, rolled, grpo, **how)

    monkeypatch.setattr(stage, "learn", watched)
    lines = curves_of(
        world, tmp_path, steps=3, group_size=2,
        dynamic_sampling=DynamicSamplingParams(max_factor=6),
    )  # fmt: skip
    assert learned
    for rolled in learned:
        assert rolled.advantages.ne(0).any(dim=1).all()
        assert rolled.prefix is None
    assert len(lines) == 3
    assert any(0.0 < line["rollout/zero_variance_groups"] < 1.0 for line in lines)


def test_an_update_that_is_no_number_is_left_out_as_often_as_it_may(caplog, world):
    policy = load_parent(world / "parent")
    trainer = Engine(policy.module, toy.machine_params(processes=1), dtype="fp32", lr=1.0,
                     schedule=lambda step: 1.0 - step / 4, weight_decay=0.0, max_grad_norm=1.0,
                     skip_nonfinite=1)  # fmt: skip
    weight = policy.language_model.lm_head.weight
    before = weight.detach().clone()
    bad = (weight * float("nan")).sum()
    trainer.backward(bad, clips=["a", "b"])
    with caplog.at_level(logging.WARNING):
        metrics = trainer.update()
    assert metrics == {"optim/lr": 1.0, "optim/skipped": 1.0}
    assert "step 1: the loss is nan (a, b)" in caplog.text
    assert "1 of 1 skipped" in caplog.text
    assert torch.equal(weight, before)
    trainer.backward(weight.square().mean(), clips=["c"])
    good = trainer.update()
    assert good["optim/lr"] == pytest.approx(0.75)  # the schedule went on
    assert good["optim/skipped"] == 1.0
    assert not torch.equal(weight, before)
    trainer.backward(bad, clips=["d"])
    with pytest.raises(NonFiniteLoss, match=r"step 3: the loss is nan \(d\)"):
        trainer.update()


def test_an_error_in_a_second_update_names_the_step_and_a_clip_once(world):
    policy = load_parent(world / "parent")
    trainer = Engine(policy.module, toy.machine_params(processes=1), dtype="fp32", lr=1e-3,
                     schedule=lambda _: 1.0, weight_decay=0.0, max_grad_norm=1.0,
                     updates_per_step=2)  # fmt: skip
    weight = policy.language_model.lm_head.weight
    for _ in range(3):
        trainer.backward(weight.square().mean())
        trainer.update()
    trainer.backward((weight * float("nan")).sum(), clips=["a", "a"])
    with pytest.raises(NonFiniteLoss, match=r"^step 2, update 2: the loss is nan \(a\);"):
        trainer.update()


def test_how_many_updates_were_left_out_is_part_of_the_state(world, tmp_path):
    def engine():
        policy = load_parent(world / "parent")
        machine = toy.machine_params(processes=1)
        return policy, Engine(policy.module, machine, dtype="fp32", lr=1.0,
                              schedule=lambda _: 1.0, weight_decay=0.0, max_grad_norm=1.0,
                              skip_nonfinite=2)  # fmt: skip

    policy, trainer = engine()
    trainer.backward((policy.language_model.lm_head.weight * float("inf")).sum(), clips=["a"])
    trainer.update()
    trainer.save(tmp_path, "recipe")
    _, again = engine()
    assert again.resume(tmp_path, "recipe") == 1
    assert again.n_skipped == 1


def test_micro_batches_without_a_token_to_learn_from_move_nothing(world):
    policy = load_parent(world / "parent")
    trainer = Engine(policy.module, toy.machine_params(processes=1), dtype="fp32", lr=1.0,
                     schedule=lambda _: 1.0, weight_decay=0.0, max_grad_norm=1.0)  # fmt: skip
    weight = policy.language_model.lm_head.weight
    before = weight.detach().clone()
    for _ in range(2):
        trainer.backward(weight.sum() * 0.0, weight=0.0)
    assert trainer.update()["train/loss"] == 0.0
    assert torch.equal(weight, before)
