"""The reader: a text's emotion as a sum over its claims."""

import json

import numpy as np
import pytest

from r1omni.emotion_families import names_emotion
from r1omni.judges.reader import fit_reader, read_reader, write_reader

ANGRY, SAD = "Lowered brows; a loud and fast voice.", "Raised brows; a soft and slow voice."
TEXTS = [ANGRY, SAD, "Lowered brows; a loud voice.", "Bowed head; a soft voice."] * 10
LABELS = ["angry", "sad"] * 20


def fitted(words: bool = False, texts=TEXTS):
    return fit_reader(texts, LABELS, words=words, folds=5, penalty=0.01, seed=1)


def test_the_reader_names_the_emotion_that_the_claims_speak_for():
    reader = fitted()
    assert reader.accuracy == 1.0
    assert reader.answers([ANGRY, SAD, "A loud voice."]) == ["angry", "sad", "angry"]
    assert reader.probabilities([ANGRY, SAD]).sum(axis=1) == pytest.approx([1.0, 1.0])


def test_it_answers_among_the_labels_of_the_corpus():
    assert fitted().answers([ANGRY, ANGRY], ["sad", "happy"]) == ["sad", "sad"]


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("text", [ANGRY, SAD, "A loud, loud voice, not a soft one.", "", "?"])
def test_contributions_sum_to_the_logit(words, text):
    reader = fitted(words)
    for column, label in enumerate(reader.labels):
        parts = reader.contributions(text, label)
        assert sum(part for _, part in parts) == pytest.approx(reader.logits([text])[0, column])
        assert parts[-1][0] == "(bias)"


def test_an_empty_text_gets_the_prior():
    reader = fitted(texts=[f"{text}" for text in TEXTS])
    assert reader.logits([""])[0] == pytest.approx(reader.bias)
    assert reader.probabilities([]).shape == (0, 2)


def test_words_that_name_an_emotion_are_masked():
    texts = [f"{text} It is {label}, plainly." for text, label in zip(TEXTS, LABELS, strict=True)]
    reader = fitted(words=True, texts=texts)
    assert "plainly" in reader.features
    assert not {"angry", "sad"} & set(reader.features)
    assert reader.logits(["Angry!"])[0] == pytest.approx(reader.bias)


def test_words_of_the_emotions_table_are_masked_if_it_is_asked():
    told = {"angry": "furious", "sad": "gloomily"}
    texts = [f"{text} Plainly {told[who]}." for text, who in zip(TEXTS, LABELS, strict=True)]
    reader = fit_reader(texts, LABELS, words=True, folds=5, penalty=0.01, seed=1,
                        masked=names_emotion)  # fmt: skip
    assert "plainly" in reader.features
    assert not {"furious", "gloomily"} & set(reader.features)
    assert {"furious", "gloomily"} <= set(fitted(words=True, texts=texts).features)


def test_a_reversed_text_reverses_the_answer():
    reader = fitted()
    assert reader.answers(["Raised brows; a soft and slow voice."]) == ["sad"]
    assert reader.claim_weights(ANGRY, "angry") == pytest.approx(
        [-weight for weight in reader.claim_weights(ANGRY, "sad")]
    )


def test_a_written_reader_is_the_same_reader(tmp_path):
    reader, path = fitted(words=True), tmp_path / "reader.json"
    write_reader(reader, path)
    again = read_reader(path)
    assert (again.logits(TEXTS) == reader.logits(TEXTS)).all()
    assert (again.accuracy, again.n, again.labels) == (reader.accuracy, 40, ("angry", "sad"))


@pytest.mark.parametrize(
    "change",
    [{"bias": [0.0]}, {"weights": {"x": [1.0]}}, {"weights": {"x": [1.0, "NaN"]}}, {"labels": 3}],
)
def test_what_is_no_reader_is_named(tmp_path, change):
    path = tmp_path / "reader.json"
    write_reader(fitted(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"reader\.json: expected a reader"):
        read_reader(path)


def test_texts_of_one_label_make_no_reader():
    with pytest.raises(ValueError, match="two labels or more"):
        fit_reader([ANGRY], ["angry"], words=False, folds=5, penalty=0.01, seed=1)


def test_a_label_that_stands_once_does_not_break_the_cross_validation():
    reader = fit_reader([*TEXTS, "A trembling voice."], [*LABELS, "fear"], words=False, folds=5,
                        penalty=0.01, seed=1)  # fmt: skip
    assert reader.labels == ("angry", "fear", "sad")
    assert np.isfinite(reader.weights).all()
