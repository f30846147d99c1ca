"""The rewards, by hand and against R1-Omni's own on 24 completions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hostile_completions import HONEST, MALFORMED, NO_KNOWN_LABEL
from hypothesis import given
from hypothesis import strategies as st

from r1omni.corpora.clip import Clip
from r1omni.rewards import (
    PAPERS_REWARDS,
    REWARDS,
    Rewards,
    accuracy_reward,
    format_reward,
    grounding_reward,
    votes_reward,
)

GOLDEN = Path(__file__).parent / "golden" / "golden_pre" / "rewards.json"

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


def clip(label: str, soft_label=None) -> Clip:
    return Clip(
        "a", "dfew", "a.mp4", label, "train", 1, None, None, 1.0, 8.0, 8, True, "0", soft_label
    )


def test_a_right_well_formed_completion_earns_both_rewards():
    text = "<think>lips curl up</think>\n<answer>happy</answer>"
    assert (accuracy_reward(text, clip("happy")), format_reward(text, clip("happy"))) == (1.0, 1.0)
    assert (accuracy_reward(text, clip("sad")), format_reward(text, clip("sad"))) == (0.0, 1.0)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_completions_earn_nothing(text: str):
    assert (accuracy_reward(text, clip("happy")), format_reward(text, clip("happy"))) == (0.0, 0.0)


@pytest.mark.parametrize("text", NO_KNOWN_LABEL.values(), ids=NO_KNOWN_LABEL)
def test_answers_that_are_not_one_known_label_earn_the_format_only(text: str):
    assert (accuracy_reward(text, clip("happy")), format_reward(text, clip("happy"))) == (0.0, 1.0)


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST)
def test_honest_completions_earn_both_rewards(text: str):
    assert (accuracy_reward(text, clip("happy")), format_reward(text, clip("happy"))) == (1.0, 1.0)


@given(st.text(), st.sampled_from(["happy", "sad", "calm", ""]))
def test_rewards_are_total_and_within_0_and_1(text: str, label: str):
    for reward in REWARDS.values():
        assert reward(text, clip(label)) in (0.0, 1.0)


def test_the_score_is_the_weighted_sum_of_its_parts():
    text = "<think>a</think><answer>sad</answer>"
    rewards = Rewards(PAPERS_REWARDS.functions, {"accuracy": 2.0, "format": 0.5})
    score = rewards.score(text, clip("happy"))
    assert score.reward == 0.5
    assert score.parts == {"accuracy": 0.0, "format": 1.0}
    assert rewards.score(text, clip("sad")).reward == 2.5


def test_only_rewards_with_a_weight_are_part_of_the_score():
    score = Rewards({"accuracy": accuracy_reward}, {"accuracy": 1.0}).score(
        "<think>a</think><answer>sad</answer>", clip("sad")
    )
    assert score.parts == {"accuracy": 1.0}


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf"), None, "1"])
def test_a_reward_that_is_no_number_in_0_and_1_is_named_with_its_clip(value):
    rewards = Rewards({"odd": lambda _text, _clip: value}, {"odd": 1.0})
    with pytest.raises(ValueError, match=r"reward odd: .* for the completion '' of clip 'a'"):
        rewards.score("", clip("sad"))


def test_a_number_of_numpys_is_a_number():
    rewards = Rewards({"half": lambda _text, _clip: np.float32(0.5)}, {"half": 1.0})
    assert rewards.score("", clip("sad")).reward == 0.5


def test_votes_pay_the_share_of_the_annotators_and_accuracy_where_nobody_counted():
    counted = clip("sad", (("sad", 0.7), ("fear", 0.3)))
    answers = {
        answer: votes_reward(f"<think>a</think><answer>{answer}</answer>", counted)
        for answer in ("sad", "fear", "happy")
    }
    assert answers == {"sad": 0.7, "fear": 0.3, "happy": 0.0}
    assert votes_reward("sad", counted) == 0.0  # not well formed
    assert votes_reward("<think>a</think><answer>sad</answer>", clip("sad")) == 1.0


# p of the levels -1, 0, +1. Pitch is not judged.
VERDICT = {"loudness": (0.1, 0.1, 0.8), "rate": (0.2, 0.7, 0.1), "brows": (0.6, 0.3, 0.1)}
DEALT = {"loudness": (0.2, 0.2, 0.6), "rate": (0.2, 0.7, 0.1), "brows": (0.2, 0.3, 0.5)}
LOUD = "<think>The voice is loud and slow.</think><answer>angry</answer>"


def grounded(text=LOUD, **changes) -> float:
    wanted = {"sides": ["voice"], "absent": None, "min_claims": 3, "term": "precision"} | changes
    return grounding_reward(text, VERDICT, DEALT, **wanted)


def test_grounding_by_hand():
    # loud: .8, slow: .2; two claims count as three
    assert grounded() == pytest.approx((0.8 + 0.2) / 3)
    assert grounded(min_claims=1) == pytest.approx((0.8 + 0.2) / 2)
    # of the unusual there is .1 + .8 of loudness and .2 + .1 of rate; said are .8 and .2
    precision, recall = 0.5, (0.8 + 0.2) / (0.9 + 0.3)
    expected = 2 * precision * recall / (precision + recall)
    assert grounded(min_claims=1, term="recall") == pytest.approx(expected)
    # beyond the label's own: loud (.8 - .6) / (1 - .6) = .5, slow 0
    assert grounded(min_claims=1, term="specificity") == pytest.approx(0.5 / 2)


def test_an_attribute_at_two_levels_counts_and_earns_nothing():
    both = "<think>The voice is loud and slow, and fast.</think><answer>angry</answer>"
    assert grounded(both, min_claims=1) == pytest.approx((0.8 + 0.0) / 2)
    assert grounded(both, min_claims=1, term="specificity") == pytest.approx((0.5 + 0.0) / 2)


def test_grounding_is_the_mean_of_the_sides_and_needs_the_form():
    # no claim of the face: 0; the voice as above
    assert grounded(sides=["face", "voice"]) == pytest.approx((0.0 + 1.0 / 3) / 2)
    assert grounded("The voice is loud and slow.") == 0.0


def test_a_side_that_is_absent_pays_for_silence_alone():
    assert grounded(absent="voice") == 0.0
    quiet = "<think>The brows are lowered; I hear nothing.</think><answer>angry</answer>"
    assert grounded(quiet, absent="voice") == 1.0
    assert grounded(quiet.replace("nothing", "no loud voice"), absent="voice") == 1.0  # denied
    assert grounded(quiet, absent="voice", sides=["face", "voice"], min_claims=1) == pytest.approx(
        (0.6 + 1.0) / 2
    )


@given(
    st.lists(st.sampled_from(["loud", "soft", "fast", "slow", "lowered brows", "I hear nothing"])),
    st.sampled_from(["precision", "recall", "specificity"]),
    st.sampled_from([None, "face", "voice"]),
    st.integers(1, 4),
)
def test_grounding_stays_within_0_and_1(words, term, absent, min_claims):
    text = f"<think>x, the voice is {' and '.join(words)}</think><answer>sad</answer>"
    for sides in (["face"], ["voice"], ["face", "voice"]):
        value = grounded(text, term=term, absent=absent, min_claims=min_claims, sides=sides)
        assert 0.0 <= value <= 1.0


def test_rewards_differ_from_the_originals_only_where_listed():
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(cases) == 24
    found = {}
    for i, case in enumerate(cases):
        label = case["solution"].removeprefix("<answer>").removesuffix("</answer>").strip()
        score = PAPERS_REWARDS.score(case["completion"], clip(label))
        ours = (score.parts["accuracy"], score.parts["format"])
        theirs = (case["accuracy"], case["format"])
        if ours != theirs:
            found[i] = (theirs, ours)
    assert found == {i: (theirs, ours) for i, (theirs, ours, _reason) in DIFFERENCES.items()}
