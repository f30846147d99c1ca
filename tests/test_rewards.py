"""The rewards, by hand and against R1-Omni's own on 24 completions."""

import json
from pathlib import Path

import pytest
from hostile_completions import HONEST, MALFORMED, NO_KNOWN_LABEL
from hypothesis import given
from hypothesis import strategies as st

from r1omni.rewards import REWARDS, accuracy_reward, format_reward, score_completion

GOLDEN = Path(__file__).parent / "golden" / "golden_pre" / "rewards.json"
WEIGHTS = {"accuracy": 1.0, "format": 1.0}

# Where ours differ from the original on purpose. Key: the completion's place in rewards.json.
# Value: (accuracy, format) of the original, of ours, and why.
FOLDED = "ours folds case, punctuation and space around the answer; evaluation reads it so too"
TAGLESS = "the original compares the raw completion where it finds no answer tag; ours pays nothing"
TWO = "two answers: the original reads the first and pays the format; ours pays nothing"
SPACE = "white space around a completion is no fault; the original's pattern forbids it"
OUTSIDE = "text outside the tags: the original still reads the answer; ours needs the form first"
NESTED = "an answer inside the rationale is read by the original; to ours it is malformed"
EMPTY = "the original pays the format of empty tags; ours asks for something inside"
NUMERIC = (
    "the original takes numbers as answers (a maths reward's remnant); ours knows emotions only"
)
DIFFERENCES: dict[int, tuple[tuple[float, float], tuple[float, float], str]] = {
    2: ((0, 1), (1, 1), FOLDED),
    3: ((0, 1), (1, 1), FOLDED),
    4: ((0, 1), (1, 1), FOLDED),
    5: ((1, 0), (0, 0), TAGLESS),
    6: ((1, 0), (0, 0), TAGLESS),
    7: ((1, 0), (0, 0), "an answer without a rationale: the original pays it; ours does not"),
    8: ((0, 1), (0, 0), TWO),
    9: ((1, 1), (0, 0), TWO),
    10: ((1, 0), (1, 1), SPACE),
    11: ((1, 0), (1, 1), SPACE),
    12: ((1, 0), (0, 0), OUTSIDE),
    13: ((1, 1), (0, 0), NESTED),
    15: ((0, 1), (0, 0), EMPTY),
    17: ((1, 0), (0, 0), OUTSIDE),
    18: ((1, 1), (0, 1), NUMERIC),
    20: ((0, 1), (0, 0), TWO),
    23: ((1, 1), (0, 1), NUMERIC),
}


def test_a_right_well_formed_completion_earns_both_rewards():
    text = "<think>lips curl up</think>\n<answer>happy</answer>"
    assert (accuracy_reward(text, "happy"), format_reward(text)) == (1.0, 1.0)
    assert (accuracy_reward(text, "sad"), format_reward(text)) == (0.0, 1.0)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_completions_earn_nothing(text: str):
    assert (accuracy_reward(text, "happy"), format_reward(text)) == (0.0, 0.0)


@pytest.mark.parametrize("text", NO_KNOWN_LABEL.values(), ids=NO_KNOWN_LABEL)
def test_answers_that_are_not_one_known_label_earn_the_format_only(text: str):
    assert (accuracy_reward(text, "happy"), format_reward(text)) == (0.0, 1.0)


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST)
def test_honest_completions_earn_both_rewards(text: str):
    assert (accuracy_reward(text, "happy"), format_reward(text)) == (1.0, 1.0)


@given(st.text(), st.sampled_from(["happy", "sad", "calm", ""]))
def test_rewards_are_total_and_within_0_and_1(text: str, label: str):
    for reward in REWARDS.values():
        assert reward(text, label) in (0.0, 1.0)


def test_the_score_is_the_weighted_sum_of_its_parts():
    text = "<think>a</think><answer>sad</answer>"
    score = score_completion(text, "happy", {"accuracy": 2.0, "format": 0.5})
    assert score.reward == 0.5
    assert score.parts == {"accuracy": 0.0, "format": 1.0}
    assert score_completion(text, "sad", {"accuracy": 2.0, "format": 0.5}).reward == 2.5


def test_only_rewards_with_a_weight_are_part_of_the_score():
    score = score_completion("<think>a</think><answer>sad</answer>", "sad", {"accuracy": 1.0})
    assert score.parts == {"accuracy": 1.0}


def test_an_unknown_reward_is_an_error():
    with pytest.raises(KeyError, match="beauty"):
        score_completion("", "sad", {"beauty": 1.0})


def test_rewards_differ_from_the_originals_only_where_listed():
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(cases) == 24
    found = {}
    for i, case in enumerate(cases):
        label = case["solution"].removeprefix("<answer>").removesuffix("</answer>").strip()
        score = score_completion(case["completion"], label, WEIGHTS)
        ours = (score.parts["accuracy"], score.parts["format"])
        theirs = (case["accuracy"], case["format"])
        if ours != theirs:
            found[i] = (theirs, ours)
    assert found == {i: (theirs, ours) for i, (theirs, ours, _reason) in DIFFERENCES.items()}
