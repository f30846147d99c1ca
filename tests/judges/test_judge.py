"""Claim judges on made-up measures: what is calibrated, what the gate refuses, what is kept."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from r1omni.evaluation_config import JudgesParams
from r1omni.judges.judge import (
    LEVELS,
    MIN_PAIRS,
    _targets,
    fit_judge,
    read_judge,
    within_labels,
    write_judge,
)
from r1omni.judges.verdicts import merged, read_verdicts, write_verdicts

JUDGES = JudgesParams(
    folds=5, min_reliability=0.7, unmentioned="middle", components=8, penalty=0.01,
    reader_words=False, seed=1,
)  # fmt: skip
LOUD, FAST = ("soft", "normal", "loud"), ("slow", "even", "fast")
N = 240


def made_up(stereotyped: bool = False):
    """Rows whose first two numbers are loudness and rate, texts that say so, and labels.

    angry clips tend to be loud, sad ones soft. A stereotyped text tells another clip of its label.
    """
    rng = np.random.default_rng(0)
    labels = np.array(["angry", "sad"])[np.arange(N) % 2]
    leaning = np.where(labels == "angry", 1, -1)
    loud = np.where(rng.random(N) < 0.5, leaning, rng.integers(-1, 2, N))
    fast = rng.integers(-1, 2, N)
    rows = rng.normal(0, 0.1, (N, 5))
    rows[:, 0] += loud
    rows[:, 1] += fast
    told = np.arange(N)
    if stereotyped:
        for label in ("angry", "sad"):
            own = np.flatnonzero(labels == label)
            told[own] = rng.permutation(own)
    texts = [f"I hear a {LOUD[loud[i] + 1]} and {FAST[fast[i] + 1]} voice." for i in told]
    return rows, texts, list(labels), loud


def fitted(stereotyped: bool = False, **changed):
    rows, texts, labels, _ = made_up(stereotyped)
    judges = JUDGES.model_copy(update=changed)
    return fit_judge(rows, texts, labels, side="voice", components=None, judges=judges)


def test_auc_within_labels_compares_clips_of_one_label_only(monkeypatch):
    """happy: (1 above 0) is right; sad: (1, 0) is wrong, (1, -1) a tie, (0, -1) right: 2.5 of 4."""
    monkeypatch.setattr("r1omni.judges.judge.MIN_PAIRS", 4)
    scores = np.array([0.9, 0.8, 0.3, 0.5, 0.3])
    values = np.array([1, 0, 1, 0, -1])
    labels = ["happy", "happy", "sad", "sad", "sad"]
    assert within_labels(scores, values, labels) == pytest.approx(2.5 / 4)
    # As one label: the first is above three (3 of 3), the third above none and a tie (0.5 of 3),
    # and each 0 is above the -1 (2 of 2).
    assert within_labels(scores, values, ["happy"] * 5) == pytest.approx(5.5 / 8)


def test_too_few_pairs_say_nothing():
    values = np.array([1] * 7 + [0] * 7)
    assert 7 * 7 < MIN_PAIRS <= 7 * 8
    assert within_labels(values.astype(float), values, ["happy"] * 14) is None
    values = np.append(values, 0)
    assert within_labels(values.astype(float), values, ["happy"] * 15) == 1.0


def test_a_judge_learns_the_levels_that_the_texts_claim():
    rows, _, _, loud = made_up()
    judge = fitted()
    assert {"loudness", "rate"} <= set(judge.judged)
    assert judge.probes["loudness"].reliability > 0.95
    verdicts = judge.verdicts(rows, own_scale=True)
    hits = [LEVELS[int(np.argmax(v["loudness"]))] == k for v, k in zip(verdicts, loud, strict=True)]
    assert np.mean(hits) > 0.95
    assert all(sum(v["rate"]) == pytest.approx(1.0) for v in verdicts)


def test_stereotyped_texts_pass_no_gate():
    """Loudness is predicted by the label; within a label it is not predicted at all."""
    judge = fitted(stereotyped=True)
    assert judge.judged == ()
    assert judge.probes["loudness"].reliability < 0.6
    assert judge.verdicts(made_up()[0], own_scale=True) == [{}] * N


def test_an_attribute_of_which_no_text_speaks_is_not_judged():
    judge = fitted(unmentioned="unknown")
    assert judge.judged == ("loudness", "rate")
    assert judge.probes["tremor"].n == 0
    assert judge.probes["tremor"].reliability is None
    silent = fit_judge(np.zeros((3, 5)), ["", "…", "A voice."], ["sad"] * 3, side="voice",
                       components=None, judges=JUDGES)  # fmt: skip
    assert silent.judged == ()


def test_a_corpus_that_was_recorded_louder_gets_the_same_verdicts():
    rows, judge = made_up()[0], fitted()
    shifted = rows + np.array([5.0, 0, 0, 0, 0])
    for one, other in zip(judge.verdicts(rows, own_scale=True),
                          judge.verdicts(shifted, own_scale=True), strict=True):  # fmt: skip
        assert one["loudness"] == pytest.approx(other["loudness"])
    moved = judge.verdicts(shifted, own_scale=False)
    assert all(np.argmax(verdict["loudness"]) == 2 for verdict in moved)


def test_a_second_corpus_of_the_calibration_that_was_recorded_louder_changes_nothing():
    rows, texts, labels, _ = made_up()
    second = np.arange(N) >= N // 2
    louder = rows + np.where(second, 20.0, 0.0)[:, None] * np.array([1.0, 0, 0, 0, 0])
    corpora = ["two" if later else "one" for later in second]

    def reliability(rows, corpora):
        judge = fit_judge(rows, texts, labels, side="voice", components=None, judges=JUDGES,
                          corpora=corpora)  # fmt: skip
        return judge.probes["loudness"].reliability

    assert reliability(louder, corpora) == pytest.approx(reliability(rows, corpora))
    assert reliability(louder, corpora) > 0.95
    assert reliability(louder, ()) < 0.8


def test_a_text_that_claims_two_levels_or_denies_one_does_not_say():
    texts = ["A loud and soft voice.", "A voice that is not loud, and fast.", "A fast voice."]
    assert np.isnan(_targets(texts, "loudness", "voice", JUDGES)).tolist() == [True, True, False]
    assert _targets(texts, "loudness", "voice", JUDGES)[2] == 0


def test_one_clip_alone_is_standardised_by_the_calibration():
    rows, judge = made_up()[0], fitted()
    assert judge.verdicts(rows[:1], own_scale=True) == judge.verdicts(rows[:1], own_scale=False)


def test_a_written_judge_is_the_same_judge_and_twice_the_same_bytes(tmp_path):
    rows, texts, labels, _ = made_up()
    judge = fit_judge(rows, texts, labels, side="voice", components=3, judges=JUDGES)
    judge = replace(judge, towers="these")
    for name in ("one", "two"):
        write_judge(judge, tmp_path / name)
    for file in ("voice.json", "voice.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    read = read_judge(tmp_path / "one", "voice")
    assert (read.judged, read.towers) == (judge.judged, "these")
    assert read.verdicts(rows, own_scale=False) == judge.verdicts(rows, own_scale=False)
    assert len(list((tmp_path / "one").iterdir())) == 2  # no partial file is left


def test_a_fit_is_the_same_twice():
    one, two = fitted(), fitted()
    assert all((one.probes[k].weights == two.probes[k].weights).all() for k in one.probes)


def test_a_pickle_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    write_judge(fitted(), tmp_path)
    (tmp_path / "voice.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"voice\.json: expected a judge"):
        read_judge(tmp_path, "voice")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"loudness": 3}', "null"])
def test_what_is_no_judge_is_named(tmp_path, content):
    write_judge(fitted(), tmp_path)
    (tmp_path / "voice.json").write_text(content)
    with pytest.raises(ValueError, match=r"voice\.json: expected a judge"):
        read_judge(tmp_path, "voice")


def test_the_reliability_stands_beside_the_weights(tmp_path):
    judge = fitted(unmentioned="unknown")
    write_judge(judge, tmp_path)
    about = json.loads((tmp_path / "voice.json").read_text())
    assert about["loudness"]["judged"] is True
    assert about["breath"] == {"reliability": None, "judged": False, "n": 0}


def test_verdicts_come_back_from_their_table(tmp_path):
    heard = {"b/2": {"pitch": (0.1, 0.2, 0.7)}, "a/1": {"pitch": (0.6, 0.3, 0.1)}}
    seen = {"a/1": {"brows": (0.0, 0.5, 0.5)}}
    write_verdicts(merged([heard, seen]), tmp_path / "verdicts.parquet")
    found = read_verdicts(tmp_path / "verdicts.parquet")
    assert found == {"a/1": heard["a/1"] | seen["a/1"], "b/2": heard["b/2"]}
    (tmp_path / "none.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"none\.parquet: expected a table of verdicts"):
        read_verdicts(tmp_path / "none.parquet")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [0, 1, 2, 9])
@pytest.mark.parametrize("components", [None, 3])
def test_too_few_texts_judge_nothing_and_break_nothing(n, components, tmp_path):
    rows, texts, labels, _ = made_up()
    judge = fit_judge(rows[:n], texts[:n], labels[:n], side="voice", components=components,
                      judges=JUDGES)  # fmt: skip
    assert judge.judged == ()
    write_judge(judge, tmp_path)
    assert read_judge(tmp_path, "voice").verdicts(rows[:2], own_scale=False) == [{}, {}]
