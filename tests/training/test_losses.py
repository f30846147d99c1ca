"""The losses against numbers worked by hand, and their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1omni.training.losses import (
    advantages,
    group_advantages,
    grpo_loss,
    kl_to_reference,
    mean_over_completions,
    sft_loss,
)


def test_one_right_completion_of_four_by_hand():
    # mean 1/4, unbiased std sqrt(3 * (1/4)^2 + (3/4)^2) / sqrt(3) = 1/2
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / (0.5 + 1e-4)
    torch.testing.assert_close(found, expected)


def test_the_other_advantages_by_hand():
    rewards = torch.tensor([[2.0, 1.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 0.0, 1.0]])
    kinds = {
        "none": [[1.0, 0.0, -1.0, 0.0], [0.0] * 4, [0.25, 0.25, -0.75, 0.25]],
        "rejection": [[1.0, 0.0, 0.0, 0.0], [1.0] * 4, [0.0] * 4],
    }
    for kind, expected in kinds.items():
        found = advantages(rewards, kind, eps=1e-4, highest=2.0)
        torch.testing.assert_close(found, torch.tensor(expected))
    grouped = advantages(rewards, "group", eps=1e-4, highest=2.0)
    assert torch.equal(grouped, group_advantages(rewards, 1e-4))


def test_equal_rewards_teach_nothing():
    for reward in (2.0, 1.3, 0.3):  # float32 holds the last two only nearly
        assert torch.equal(group_advantages(torch.full((2, 8), reward)), torch.zeros(2, 8))


@given(st.lists(st.floats(0, 2), min_size=2, max_size=8), st.randoms())
def test_advantages_sum_to_zero_and_follow_a_permutation(rewards, random):
    order = list(range(len(rewards)))
    random.shuffle(order)
    r = torch.tensor([rewards], dtype=torch.float64)
    a = group_advantages(r)
    assert abs(float(a.sum())) < 1e-6
    torch.testing.assert_close(group_advantages(r[:, order]), a[:, order], rtol=1e-6, atol=1e-6)


def test_k3_by_hand():
    kl = kl_to_reference(torch.tensor([[math.log(0.5)]]), torch.tensor([[math.log(0.25)]]))
    # d = log(1/2): exp(d) - d - 1 = 0.5 + 0.6931 - 1
    torch.testing.assert_close(kl, torch.tensor([[0.5 + math.log(2) - 1]]))


@given(st.floats(-5, 0), st.floats(-5, 0))
def test_k3_is_never_negative_and_zero_where_equal(logprob, ref):
    kl = kl_to_reference(
        torch.tensor([[logprob]], dtype=torch.float64), torch.tensor([[ref]], dtype=torch.float64)
    )
    assert float(kl) >= 0.0
    assert (float(kl) == 0.0) == (logprob == ref) or abs(logprob - ref) < 1e-6


def test_every_completion_counts_the_same_however_long():
    values = torch.tensor([[1.0, 9.0, 9.0], [3.0, 5.0, 7.0]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    # the first completion counts 1, the second the mean of 3, 5 and 7
    assert float(mean_over_completions(values, mask)) == 3.0


def test_grpo_loss_and_gradient_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, -3.0]], requires_grad=True)
    ref = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
    mask = torch.tensor([[1, 1], [1, 1]])
    loss, metrics = grpo_loss(logprobs, ref, torch.tensor([1.0, -1.0]), mask, kl_coef=0.1)
    k3 = math.exp(1.0) - 1.0 - 1.0  # where the policy is one nat below the reference
    # ratios are 1, so the policy terms are -1, -1, +1, +1; the KL is in one token of four
    assert float(loss) == pytest.approx(0.1 * k3 / 4, rel=1e-5)
    assert float(metrics["train/kl"]) == pytest.approx(k3 / 4, rel=1e-5)
    loss.backward()
    # d ratio*A = A; d k3 / d logprob = 1 - exp(d), with d = 1 in the last token only
    last = (1.0 + 0.1 * (1.0 - math.exp(1.0))) / 4
    torch.testing.assert_close(
        logprobs.grad, torch.tensor([[-0.25, -0.25], [0.25, last]]), rtol=1e-5, atol=1e-6
    )


def test_masked_tokens_do_not_count():
    logprobs = torch.tensor([[-1.0, -50.0]], requires_grad=True)
    mask = torch.tensor([[1, 0]])
    ref = torch.tensor([[-1.0, 0.0]])
    loss, _ = grpo_loss(logprobs, ref, torch.tensor([2.0]), mask, kl_coef=0.04)
    loss.backward()
    assert float(loss) == -2.0
    assert logprobs.grad.tolist() == [[-2.0, 0.0]]


def test_sft_loss_is_the_mean_over_all_tokens():
    logprobs = torch.tensor([[-1.0, -3.0], [-5.0, -100.0]])
    assert float(sft_loss(logprobs, torch.tensor([[1, 1], [1, 0]]))) == 3.0
