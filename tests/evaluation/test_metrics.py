"""WAR, UAR, confusion, intervals and calm policies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1omni.evaluation.metrics import (
    bootstrap_intervals,
    confusion,
    half_width,
    paired_gain,
    rate,
    recalls,
    uar,
    war,
    with_calm,
)

# Six happy clips of which three are right, two sad ones of which both are, one fear: wrong.
LABELS = ["happy"] * 6 + ["sad"] * 2 + ["fear"]
ANSWERS = ["happy", "happy", "happy", "sad", None, "calm", "sad", "sad", "happy"]

classes = st.sampled_from(["happy", "sad", "fear", "calm"])
judged = st.lists(st.tuples(classes, st.none() | classes), min_size=1, max_size=60)


def test_war_is_the_share_of_right_answers():
    assert war(LABELS, ANSWERS) == 5 / 9


def test_uar_is_the_mean_recall_of_the_classes_present():
    assert recalls(LABELS, ANSWERS) == {"fear": 0.0, "happy": 0.5, "sad": 1.0}
    assert uar(LABELS, ANSWERS) == (0.5 + 1.0 + 0.0) / 3


def test_no_answer_is_wrong_not_missing():
    assert war(["happy", "happy"], [None, "happy"]) == 0.5


def test_the_papers_dfew_number_is_1541_of_2341():
    answers = ["happy"] * 1541 + ["sad"] * 800
    assert round(100 * war(["happy"] * 2341, answers), 2) == 65.83


def test_judging_no_clips_or_unequal_lists_is_an_error():
    with pytest.raises(ValueError, match="no clips"):
        war([], [])
    with pytest.raises(ValueError, match="no clips"):
        rate([])
    with pytest.raises(ValueError, match="zip"):
        war(["happy"], [])


@given(judged)
def test_war_is_accuracy_and_the_support_weighted_recall(pairs: list[tuple[str, str | None]]):
    labels, answers = [t for t, _ in pairs], [p for _, p in pairs]
    assert war(labels, answers) == pytest.approx(np.mean([t == p for t, p in pairs]))
    weighted = sum(r * labels.count(label) for label, r in recalls(labels, answers).items())
    assert war(labels, answers) == pytest.approx(weighted / len(labels))


@given(judged, classes, st.integers(2, 4))
def test_uar_does_not_change_when_the_clips_of_one_class_are_repeated(
    pairs: list[tuple[str, str | None]], label: str, times: int
):
    more = [pair for pair in pairs for _ in range(times if pair[0] == label else 1)]
    before = uar([t for t, _ in pairs], [p for _, p in pairs])
    assert uar([t for t, _ in more], [p for _, p in more]) == pytest.approx(before)


@given(judged, st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_the_clips(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    for metric in (war, uar):
        one = metric([t for t, _ in pairs], [p for _, p in pairs])
        two = metric([t for t, _ in shuffled], [p for _, p in shuffled])
        assert one == pytest.approx(two)


def test_confusion_counts_rows_of_truth_and_a_column_for_no_class():
    counts = confusion(LABELS, ANSWERS, ["happy", "sad", "fear"])
    assert counts.tolist() == [[3, 1, 0, 2], [0, 2, 0, 0], [1, 0, 0, 0]]


def test_confusion_refuses_a_label_that_is_not_a_class():
    with pytest.raises(ValueError, match="fear"):
        confusion(LABELS, ANSWERS, ["happy", "sad"])


@given(judged)
def test_the_confusion_holds_every_clip_and_its_diagonal_is_war(pairs):
    labels, answers = [t for t, _ in pairs], [p for _, p in pairs]
    counts = confusion(labels, answers, ["happy", "sad", "fear", "calm"])
    assert counts.sum() == len(labels)
    assert np.trace(counts) / len(labels) == pytest.approx(war(labels, answers))


CALM_LABELS = ["calm", "calm", "neutral", "happy", "happy"]
CALM_ANSWERS = ["neutral", "calm", "calm", "calm", "happy"]


def test_calm_kept_is_a_class():
    assert war(*with_calm("keep", CALM_LABELS, CALM_ANSWERS)) == 2 / 5


def test_calm_merged_is_neutral_in_truth_and_answer():
    labels, answers = with_calm("merge", CALM_LABELS, CALM_ANSWERS)
    assert labels == ["neutral", "neutral", "neutral", "happy", "happy"]
    assert answers == ["neutral", "neutral", "neutral", "neutral", "happy"]
    assert war(labels, answers) == 4 / 5
    assert uar(labels, answers) == (1 + 1 / 2) / 2


def test_calm_dropped_leaves_out_clips_but_not_wrong_answers():
    labels, answers = with_calm("drop", CALM_LABELS, CALM_ANSWERS)
    assert labels == ["neutral", "happy", "happy"]
    assert answers == ["calm", "calm", "happy"]
    assert war(labels, answers) == 1 / 3


@given(judged)
def test_calm_policies_change_nothing_where_nobody_says_calm(pairs):
    kept = [(t, p) for t, p in pairs if "calm" not in (t, p)]
    labels, answers = [t for t, _ in kept], [p for _, p in kept]
    assert with_calm("merge", labels, answers) == (labels, answers)
    assert with_calm("drop", labels, answers) == (labels, answers)


def test_intervals_agree_with_drawing_clips_one_by_one():
    """The multinomial shortcut against the plain bootstrap, which draws the clips themselves."""
    labels, answers = np.array(LABELS * 20), np.array([a or "none" for a in ANSWERS] * 20)
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(4000):
        drawn = rng.integers(len(labels), size=len(labels))
        truth, right = labels[drawn], labels[drawn] == answers[drawn]
        plain.append((right.mean(), np.mean([right[truth == c].mean() for c in set(truth)])))
    expected = np.quantile(plain, [0.025, 0.975], axis=0)
    fast = bootstrap_intervals(LABELS * 20, ANSWERS * 20, samples=4000, confidence=0.95, seed=1)
    assert fast.war == pytest.approx(tuple(expected[:, 0]), abs=0.01)
    assert fast.uar == pytest.approx(tuple(expected[:, 1]), abs=0.01)


def test_the_half_width_of_war_is_that_of_a_binomial():
    """The paper's R1-Omni on DFEW: 1541 of 2341, half-width 1.96 sqrt(p q / n) = 1.92 points."""
    answers = ["happy"] * 1541 + ["sad"] * 800
    found = bootstrap_intervals(["happy"] * 2341, answers, samples=4000, confidence=0.95, seed=1)
    assert half_width(found.war) == pytest.approx(0.0192, abs=0.001)
    assert half_width(found.uar) == pytest.approx(0.0192, abs=0.001)


def test_intervals_are_the_same_for_the_same_seed_only():
    def at(seed: int):
        return bootstrap_intervals(LABELS, ANSWERS, samples=200, confidence=0.95, seed=seed)

    assert at(1) == at(1)
    assert at(1) != at(2)


@settings(max_examples=30)
@given(judged)
def test_intervals_are_ordered_fractions(pairs):
    labels, answers = [t for t, _ in pairs], [p for _, p in pairs]
    found = bootstrap_intervals(labels, answers, samples=50, confidence=0.9, seed=1)
    for low, high in (found.war, found.uar):
        assert 0 <= low <= high <= 1


def test_a_model_gains_nothing_over_itself():
    gain = paired_gain(LABELS, ANSWERS, ANSWERS, samples=100, confidence=0.95, seed=1)
    assert (gain.war, gain.war_half_width, gain.uar, gain.uar_half_width) == (0, 0, 0, 0)
    assert (gain.war_ci, gain.uar_ci) == ((0, 0), (0, 0))


def test_a_paired_interval_is_narrower_than_the_two_models_own():
    """100 clips: both right on 60, only the second on 10, neither on 30. Gain 0.1, sd 0.03."""
    labels = ["happy"] * 100
    before = ["happy"] * 60 + [None] * 40
    after = ["happy"] * 70 + [None] * 30
    gain = paired_gain(labels, before, after, samples=8000, confidence=0.95, seed=1)
    assert gain.war == pytest.approx(0.1)
    assert gain.war_half_width == pytest.approx(1.96 * 0.03, abs=0.004)
    assert gain.war_ci == pytest.approx((0.1 - 1.96 * 0.03, 0.1 + 1.96 * 0.03), abs=0.015)
    alone = bootstrap_intervals(labels, after, samples=8000, confidence=0.95, seed=1)
    assert half_width(alone.war) > gain.war_half_width
