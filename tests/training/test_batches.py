"""Which clips a step sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1omni.training.batches import balanced_shares, batch_at


@given(n=st.integers(1, 30), size=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_item_comes_once_an_epoch(n, size, seed):
    items = list(range(n))
    steps = -(-3 * n // size)
    seen = [i for step in range(1, steps + 1) for i in batch_at(items, step, size, seed)]
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == items


def test_a_step_is_a_function_of_seed_and_step_alone():
    items = list("abcdefgh")
    assert batch_at(items, 5, 3, 1) == batch_at(items, 5, 3, 1)
    assert [batch_at(items, s, 8, 1) for s in (1, 2)] != [batch_at(items, s, 8, 2) for s in (1, 2)]


def test_no_clips_is_said():
    with pytest.raises(ValueError, match="no clips to train on"):
        batch_at([], 1, 4, 1)


def test_balance_by_hand():
    # three of a, one of b: at 1 each class has half; at 0.5 they weigh sqrt(3) to 1
    assert balanced_shares("aaab", 1.0) == pytest.approx((1 / 6, 1 / 6, 1 / 6, 1 / 2))
    root = 3**0.5
    assert balanced_shares("aaab", 0.5)[3] == pytest.approx(1 / (root + 1))
    assert balanced_shares("aaab", 0.0) is None


def test_balanced_batches_hold_the_classes_equally_often():
    items = ["rare"] + ["common"] * 99
    shares = balanced_shares(items, 1.0)
    drawn = [i for step in range(1, 41) for i in batch_at(items, step, 100, 1, shares)]
    assert 0.47 < drawn.count("rare") / len(drawn) < 0.53
