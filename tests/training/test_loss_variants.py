"""The losses and advantages that params choose, by hand and against plain loops over tokens."""

import math

import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from r1omni.model.feature_store import FeatureStore
from r1omni.training.checkpoints import load_parent
from r1omni.training.group_loss import group_loss
from r1omni.training.losses import (
    LossRules,
    group_advantages,
    grpo_loss,
    mean_over,
    summed_advantages,
)
from r1omni.training.reference import CopiedReference
from r1omni.training.rolling_out import Models, roll_out
from r1omni.training.rollouts import SharedPrefixSampler

VALUES = torch.tensor([[1.0, 9.0, 9.0], [3.0, 5.0, 7.0]])
MASK = torch.tensor([[1, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("grpo", (1.0 + 5.0) / 2),  # each completion's own mean
        ("dr_grpo", (1.0 + 15.0) / (2 * 10)),  # sums over 10 tokens at most
        ("dapo", 16.0 / 4),  # of the four tokens
    ],
)
def test_how_tokens_are_averaged_by_hand(kind, expected):
    found = mean_over(VALUES, MASK, LossRules(kind, max_tokens=10))
    assert float(found) == pytest.approx(expected)


def test_clipping_by_hand():
    """Ratios 1.5 and 0.5 of a good and of a bad completion, clipped to [0.8, 1.3]."""
    old = torch.zeros(2, 2)
    logprobs = torch.log(torch.tensor([[1.5, 0.5], [1.5, 0.5]])).requires_grad_()
    rules = LossRules(clip_low=0.2, clip_high=0.3)
    loss, metrics = grpo_loss(logprobs, None, torch.tensor([1.0, -1.0]), torch.ones(2, 2),
                              kl_coef=0.0, old_logprobs=old, rules=rules)  # fmt: skip
    # good: min(1.5, 1.3) = 1.3 and min(0.5, 0.8) = 0.5; bad: -1.5 and min(-0.5, -0.8) = -0.8
    assert float(loss) == pytest.approx(-(1.3 + 0.5 - 1.5 - 0.8) / 4)
    assert float(metrics["train/clipped"]) == pytest.approx(2 / 4)
    assert "train/kl" not in metrics
    loss.backward()
    # d ratio / d logprob = ratio where it is not clipped
    expected = torch.tensor([[0.0, -0.5 / 4], [1.5 / 4, 0.0]])
    torch.testing.assert_close(logprobs.grad, expected)


def test_a_ratio_is_cut_at_its_cap():
    logprobs = torch.tensor([[3.0]], requires_grad=True)
    rules = LossRules(ratio_cap=2.0)
    loss, _ = grpo_loss(logprobs, None, torch.tensor([-1.0]), torch.ones(1, 1), kl_coef=0.0,
                        old_logprobs=torch.zeros(1, 1), rules=rules)  # fmt: skip
    assert float(loss) == pytest.approx(2.0)  # not exp(3)


def test_every_reward_by_itself_by_hand():
    accuracy, format_ = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    parts = {"accuracy": accuracy, "format": format_}
    together = group_advantages(accuracy + format_)
    assert together.tolist() == [[0.0, 0.0]]  # sums of 1 and 1 look alike
    apart = summed_advantages(parts, {"accuracy": 2.0, "format": 1.0}, eps=0.0)
    # each is (+1/2, -1/2) over a deviation of sqrt(1/2): 2 x .7071 - .7071
    assert apart.tolist() == [pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])]


def test_rewards_that_cancel_each_other_out_leave_no_rounding():
    for spread in (1.0, 3e-2, 3e-4):
        one = 0.5 + spread * torch.tensor([[0.1, -0.3, 0.2, 0.5]], dtype=torch.float64)
        parts = {"one": one, "other": 1.0 - one}
        apart = summed_advantages(parts, {"one": 1.0, "other": 1.0}, eps=1e-4)
        assert apart.tolist() == [[0.0] * 4]
        assert summed_advantages(parts, {"one": 1.0, "other": 0.9}, eps=1e-4).ne(0.0).all()
    parts = {"flat": torch.ones(1, 2), "small": torch.tensor([[0.0, 1.0]])}
    light = summed_advantages(parts, {"flat": 1e3, "small": 1e-4}, eps=0.0)
    assert light[0].tolist() == pytest.approx([-(0.5**0.5) * 1e-4, 0.5**0.5 * 1e-4])


def test_a_completion_that_is_not_learned_from_has_no_part_in_the_kl_by_hand():
    """Of two completions the second is masked: half of the loss, all of the KL."""
    logprobs, ref = torch.zeros(2, 2), torch.full((2, 2), math.log(2.0))
    mask = torch.tensor([[1, 1], [0, 0]])
    k3 = 2.0 - math.log(2.0) - 1.0
    loss, metrics = grpo_loss(logprobs, ref, torch.zeros(2), mask, kl_coef=1.0)
    assert float(loss) == pytest.approx(k3 / 2)
    assert float(metrics["train/kl"]) == pytest.approx(k3)
    _, none = grpo_loss(logprobs, ref, torch.zeros(2), torch.zeros_like(mask), kl_coef=1.0)
    assert float(none["train/kl"]) == 0.0


def slow_loss(logprobs, ref, advantages, mask, kl_coef, old, rules):
    """Token by token, as the papers write it."""
    sums, lengths = [], []
    for row in range(len(mask)):
        total = torch.zeros((), dtype=logprobs.dtype)
        for t in range(mask.shape[1]):
            if not mask[row, t]:
                continue
            before = logprobs[row, t].detach() if old is None else old[row, t]
            ratio = torch.exp(logprobs[row, t] - before)
            gain = ratio * advantages[row]
            if old is not None:
                near = ratio.clamp(1 - rules.clip_low, 1 + rules.clip_high)
                gain = gain if gain <= near * advantages[row] else near * advantages[row]
            d = ref[row, t] - logprobs[row, t]
            total = total - (gain - kl_coef * (torch.exp(d) - d - 1))
        sums.append(total)
        lengths.append(int(mask[row].sum()))
    if rules.kind == "grpo":
        return sum(s / n for s, n in zip(sums, lengths, strict=True)) / len(sums)
    if rules.kind == "dr_grpo":
        return sum(sums) / (len(sums) * rules.max_tokens)
    return sum(sums) / sum(lengths)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["grpo", "dr_grpo", "dapo"]),
    off_policy=st.booleans(),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_loss_and_gradient_are_those_of_plain_loops(kind, off_policy, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    N, T = len(lengths), max(lengths)
    mask = (torch.arange(T) < torch.tensor(lengths)[:, None]).long()
    base, ref, old = (-torch.rand(N, T, generator=generator, dtype=torch.float64) for _ in range(3))
    advantages = torch.randn(N, generator=generator, dtype=torch.float64)
    rules = LossRules(kind, max_tokens=7, clip_low=0.2, clip_high=0.28)
    before = old if off_policy else None
    fast, slow = base.clone().requires_grad_(), base.clone().requires_grad_()
    loss, _ = grpo_loss(fast, ref, advantages, mask, kl_coef=0.04, old_logprobs=before, rules=rules)
    expected = slow_loss(slow, ref, advantages, mask, 0.04, before, rules)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-12, atol=1e-14)


@pytest.fixture(scope="module")
def rolled(world):
    """Policy, reference and rollouts, some of which do not end and some of which teach nothing."""
    policy = load_parent(world / "parent")
    models = Models(policy, CopiedReference(policy), SharedPrefixSampler(policy), "recompute",
                    rewards=toy.BY_LENGTH)  # fmt: skip
    clips = [toy.clip_at(i) for i in range(6)]
    features = FeatureStore([world / "features"]).load([clip.clip_id for clip in clips])
    grpo = toy.grpo_params(max_new_tokens=18, temperature=1.5, group_size=3)
    found = roll_out(models, features, clips, grpo, 1, range(6))
    assert 0 < int(found.completions.finished.sum()) < found.completions.finished.numel()
    assert int(found.advantages.ne(0).any(dim=1).sum()) > 0
    return models, found


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("kl_coef", [0.04, 0.0])
def test_micro_batches_add_up_to_the_whole_batchs_loss(rolled, kind, mask_truncated, kl_coef):
    models, found = rolled
    rules = LossRules(kind, max_tokens=18, mask_truncated=mask_truncated)

    def loss_of(part):
        return group_loss(models.policy, models.reference if kl_coef else None, part,
                          temperature=1.5, kl_coef=kl_coef, rules=rules)  # fmt: skip

    whole = loss_of(found)
    parts = [loss_of(found.select(places)) for places in ([0], [1, 2], [3, 4, 5])]
    weight = sum(part.weight for part in parts)
    assert weight == whole.weight
    together = sum(float(part.loss) * part.weight for part in parts) / weight
    assert together == pytest.approx(float(whole.loss), rel=1e-4, abs=1e-7)
    assert ("train/kl" in whole.metrics) == (kl_coef > 0)


def test_a_completion_that_did_not_end_teaches_nothing_if_it_is_masked(rolled):
    models, found = rolled
    cut = found.completions.finished.logical_not()
    old = {}
    for mask_truncated in (False, True):
        compared = group_loss(models.policy, None, found, temperature=1.5, kl_coef=0.0,
                              rules=LossRules("dapo", mask_truncated=mask_truncated))  # fmt: skip
        old[mask_truncated] = compared
    tokens = found.completions.mask.sum(dim=2)
    assert old[False].weight - old[True].weight == float(tokens[cut].sum())
    assert float(old[False].loss) != float(old[True].loss)
