"""The gate's rule: numbers by hand, and a thousand gates between equal models."""

from dataclasses import replace

import numpy as np
import pytest

from r1omni.config import PromotionParams
from r1omni.evaluation.gate import Outcomes, compare, difference

RULE = PromotionParams(
    confidence=0.95, bootstrap_samples=1000, seed=1, margin=0.02, second="format"
)


def flags(n: int, n_true: int, *, first: bool = True) -> np.ndarray:
    return (np.arange(n) < n_true) if first else (np.arange(n) >= n - n_true)


def outcomes(n: int, n_right: int, n_formed: int) -> Outcomes:
    return Outcomes(flags(n, n_right), flags(n, n_formed))


def test_a_difference_by_hand():
    """Of 200 clips 130 are right for both, 14 for the candidate alone, 6 for the rival alone."""
    candidate, rival = flags(200, 144), flags(200, 130)
    rival[-6:] = True
    found = difference("WAR", candidate, rival, RULE)
    assert (found.candidate, found.rival) == (0.72, 0.68)
    assert found.gain == pytest.approx(8 / 200)
    # the variance of one clip's difference: 20/200 - 0.04², so ±1.96 · 0.3137 / √200 = ±0.0435
    assert (found.low, found.high) == pytest.approx((0.04 - 0.0435, 0.04 + 0.0435), abs=0.006)
    assert found.sign_p == pytest.approx(60460 / 2**20)  # C(20,14) + … + C(20,20)


@pytest.mark.parametrize(
    ("candidate", "better", "says"),
    [
        ((160, 200), True, "WAR 0.8000 against 0.7000: +0.1000"),
        ((145, 190), False, "neither is a gain with confidence"),
        ((140, 200), True, "format rate 1.0000 against 0.9500"),  # equal WAR, a better form
        ((138, 200), False, "WAR may be lower by more than 0.02"),
        ((120, 200), False, "WAR may be lower by more than 0.02"),
    ],
)
def test_what_is_better_than_140_right_of_200_and_190_well_formed(candidate, better, says):
    found = compare(outcomes(200, *candidate), outcomes(200, 140, 190), RULE)
    assert found.better == better
    assert says in found.reason


def test_without_a_second_criterion_form_does_not_count():
    alone = RULE.model_copy(update={"second": None})
    assert not compare(outcomes(200, 140, 200), outcomes(200, 140, 190), alone).better


def test_a_few_lucky_clips_are_no_gain():
    """4 gained and none lost: for the bootstrap alone a gain, by the coin 1 in 16."""
    found = difference("WAR", flags(200, 144), flags(200, 140), RULE)
    assert found.low > 0
    assert found.sign_p == 1 / 16
    assert not compare(outcomes(200, 144, 0), outcomes(200, 140, 0), RULE).better


def test_other_clips_are_an_error():
    with pytest.raises(ValueError, match="same clips for both models, got 3 and 4"):
        compare(outcomes(3, 1, 1), outcomes(4, 1, 1), RULE)
    with pytest.raises(ValueError, match="got 0 and 0"):
        compare(outcomes(0, 0, 0), outcomes(0, 0, 0), RULE)


@pytest.mark.parametrize(
    ("n", "right", "formed", "agreement"),
    [(200, 0.7, 0.95, 0.0), (200, 0.7, 0.95, 0.9), (200, 0.7, 0.99, 0.97), (40, 0.5, 0.9, 0.5)],
)
def test_of_a_thousand_gates_between_equal_models_at_most_one_in_20_moves(
    n, right, formed, agreement
):
    """Equal chances on every clip; on the share `agreement` of the clips the answers are equal."""
    rng = np.random.default_rng(7)
    quick = RULE.model_copy(update={"bootstrap_samples": 300})

    def pair(chance: float) -> tuple[np.ndarray, np.ndarray]:
        before, after = rng.random((2, n)) < chance
        return before, np.where(rng.random(n) < agreement, before, after)

    moved = 0
    for _ in range(1000):
        (right_1, right_2), (formed_1, formed_2) = pair(right), pair(formed)
        moved += compare(Outcomes(right_2, formed_2), Outcomes(right_1, formed_1), quick).better
    assert moved <= 50


def test_a_worse_model_never_moves_it_and_a_much_better_one_does():
    rng = np.random.default_rng(7)
    quick = RULE.model_copy(update={"bootstrap_samples": 300})
    moved = dict.fromkeys((0.62, 0.85), 0)
    for _ in range(200):
        champion = Outcomes(rng.random(200) < 0.7, np.ones(200, dtype=bool))
        for chance in moved:
            candidate = replace(champion, right=rng.random(200) < chance)
            moved[chance] += compare(candidate, champion, quick).better
    assert moved[0.62] == 0
    assert moved[0.85] >= 180
