"""One vocabulary: what corpora and models write -> one canonical word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_labels import LABELS

from r1omni.corpora.known import find_corpus
from r1omni.emotions import EMOTIONS, canonical


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("angry", "angry"), ("Anger.", "angry"), (" HAPPINESS ", "happy"), ("**sad**", "sad"),
        ("surprised", "surprise"), ("Fearful!", "fear"), ("contempt", "contemptuous"),
        ("worried", "anxious"), ("anxiety", "anxious"), ("helplessness", "helpless"),
        ("disappointment", "disappointed"), ("calm", "calm"), ("'disgust'", "disgust"),
        ("happy, sad", None), ("not happy", None), ("bored", None), ("", None), ("...", None),
        ("happy sad", None), ("unhappy", None), ("happi ness", None),
    ],
)  # fmt: skip
def test_an_answer_is_exactly_one_known_label_or_nothing(answer, label):
    assert canonical(answer) == label


@given(st.text())
def test_any_string_has_a_known_label_or_none(text):
    label = canonical(text)
    assert label is None or (label in EMOTIONS and canonical(label) == label)


@given(st.sampled_from(EMOTIONS), st.text(alphabet=" \t\n.,;:!?\"'`*_()[]{}<>"))
def test_punctuation_and_case_around_a_label_change_nothing(label, edge):
    assert canonical(edge + label.upper() + edge[::-1]) == label


def test_the_corpora_have_seven_eleven_and_eight_labels():
    assert [len(LABELS[corpus]) for corpus in ("dfew", "mafw", "ravdess")] == [7, 11, 8]
    assert "calm" not in LABELS["dfew"] + LABELS["mafw"]
    assert set(LABELS["dfew"]) < set(LABELS["mafw"]) and "calm" in LABELS["ravdess"]


def test_whatever_a_corpus_writes_is_read_the_same_as_an_answer():
    for name, label in find_corpus("mafw").ids.items():
        assert canonical(name) == label
    assert all(canonical(label) == label for label in LABELS["dfew"])
