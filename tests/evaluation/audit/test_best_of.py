"""Choosing among samples, the table of audits, and what score makes of the reader."""

from types import SimpleNamespace

import numpy as np
import pytest
from known_labels import LABELS
from made_up_run import SCORE, make_row

from r1omni.completions import render
from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.evaluation.audit.audit import _Measure
from r1omni.evaluation.audit.best_of import vote
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import (
    AuditedClip,
    AuditResults,
    Measured,
    write_audit,
)
from r1omni.evaluation.audit_table import audit_table
from r1omni.evaluation.reading import best_of_truth, best_read, measured_truth, reader_rates
from r1omni.evaluation.truth import Truth
from r1omni.judges.reader import Reader
from r1omni.judges.selection import best_by_judges, read_all, support_of
from r1omni.judging import judge

VERDICT = {"brows": (0.1, 0.2, 0.7), "eyes": (0.3, 0.3, 0.4), "loudness": (0.0, 0.4, 0.6)}
# Raised brows speak for happy, a soft voice for sad.
READER = Reader(
    labels=("happy", "sad"),
    words=False,
    features={"brows +1": 0, "loudness -1": 1},
    weights=np.array([[2.0, -2.0], [-1.0, 1.0]]),
    bias=np.array([0.1, 0.0]),
    accuracy=1.0,
    n=2,
)


def said(rationale: str, answer: str = "happy"):
    return judge(render(rationale, answer), "reasoned")


def test_support_by_hand():
    # face: brows .7, eyes .3, divided by 3; voice: .6 / 3; their mean
    text = "The brows are raised, eyes narrowed, jaw clenched; the voice is loud."
    assert support_of(text, VERDICT) == pytest.approx(((0.7 + 0.3) / 3 + 0.6 / 3) / 2)
    assert support_of("Nothing.", VERDICT) == 0.0
    assert support_of(text, {}) == 0.0
    assert support_of(text, {"brows": (0.0, 0.0, 1.0)}) == pytest.approx(1 / 3)  # no voice judged


def test_the_judges_choose_what_they_support():
    samples = [
        said("The brows are lowered; the voice is loud.", "sad"),
        said("The brows are raised; the voice is loud.", "happy"),
        judge("<think>no end", "reasoned"),
    ]
    assert best_by_judges(samples, VERDICT).prediction == "happy"
    assert best_by_judges(samples[2:], VERDICT) is None
    assert vote(samples) == "sad"  # the first of equals
    assert vote(samples[2:]) is None


def test_reading_all_samples_takes_the_mean_probability():
    raised, soft = said("The brows are raised."), said("The voice is soft.")
    # happy: sigmoid(4.1) = .984 and sigmoid(-1.9) = .130: mean .557
    assert read_all([raised, soft], READER, LABELS["dfew"]) == "happy"
    assert read_all([raised, soft, soft], READER, LABELS["dfew"]) == "sad"
    assert read_all([judge("no", "reasoned")], READER, LABELS["dfew"]) is None


def rows():
    told = [("The brows are raised.", "sad"), ("The voice is soft.", "sad"), (None, "happy")]
    return [
        make_row(
            "none" if text is None else render(text, answer),
            ("happy", "sad", "happy")[i],
            clip_id=f"dfew/{i}",
        )
        for i, (text, answer) in enumerate(told)
    ]


def test_the_readers_rates_and_its_gain_over_the_model():
    found = reader_rates(rows(), READER, LABELS["dfew"], SCORE)
    assert found.war == pytest.approx(2 / 3)  # without a rationale there is no answer
    assert found.gain_over_own.war == pytest.approx(1 / 3)
    assert reader_rates([make_row("happy", mode="direct")], READER, ("happy",), SCORE) is None


def test_the_reader_of_the_best_samples_answers_for_the_audited_clips_alone():
    def audited(i: int, label: str, best: str | None) -> AuditedClip:
        return AuditedClip(f"dfew/{i}", "dfew", label, "sad", best_rationale=best)

    clips = [
        audited(0, "happy", "The brows are raised."),  # read as happy
        audited(1, "happy", "The voice is soft."),  # read as sad
        audited(2, "sad", "The voice is soft."),
        audited(3, "sad", None),  # no sample was well formed: no answer
    ]
    found = best_read(clips, READER, ("happy", "sad"), SCORE)
    assert (found.war, found.n) == (0.5, 4)
    assert found.recall == {"happy": 0.5, "sad": 0.5}
    assert best_read(clips[3:], READER, ("happy", "sad"), SCORE) is None


def test_without_a_rationale_the_reader_of_the_audit_has_no_answer():
    judged = SimpleNamespace(verdicts={}, reader=READER, reliability={})
    measure = _Measure(judged, {"dfew": ("happy", "sad")}, Bootstrap(10, 0.95, 1), ())
    texts = [None, "The brows are raised.", "Nothing."]
    assert measure.read(texts, ["dfew"] * 3) == [None, "happy", "happy"]  # the bias is happy's
    found = measure._reader(rows())
    assert found["reader.answers.war"].value == pytest.approx(2 / 3)
    assert (found["reader.same"].value, found["reader.same"].n) == (0.5, 2)


def test_truth_of_greedy_and_chosen_rationales_on_the_same_clips():
    levels = dict.fromkeys(ATTRIBUTES, 0) | {"brows": 1, "loudness": 1}
    truth = {f"dfew/{i}": Truth("happy", 0, levels) for i in range(3)}
    audited = {
        "dfew/1": AuditedClip(
            "dfew/1", "dfew", "sad", "sad", "The voice is soft.",
            best_rationale="The voice is loud.", best_prediction="happy",
        )
    }  # fmt: skip
    found = best_of_truth(rows(), audited, truth, SCORE)
    assert (found.greedy.voice, found.best.voice, found.n) == (0.0, 1.0, 1)
    assert (found.greedy.voice_recall, found.best.voice_recall) == (0.0, 1.0)
    assert best_of_truth(rows(), {}, truth, SCORE) is None
    assert measured_truth(rows(), truth, {"dfew/0": VERDICT}, SCORE).face_judge_auc is None


def test_the_table_shows_models_side_by_side(tmp_path):
    share = Measured(value=0.543, low=0.516, high=0.570, n=480)
    for model, numbers in (
        ("grpo", {"shapley.audio_share": share, "absent.audio.war": share}),
        ("base", {"shapley.audio_share": Measured(value=0.1, n=480)}),
    ):
        audit = AuditResults(model=model, mode="reasoned", corpora={"all": numbers})
        write_audit(audit, tmp_path / f"{model}.json")
    lines = audit_table(tmp_path).splitlines()
    assert lines[1].split() == ["base", "grpo"]
    row = next(line for line in lines if line.startswith("share of the sound, absent: another"))
    assert row.endswith("10.0    54.3 ± 2.7")
    assert max(map(len, lines)) <= 110
    with pytest.raises(ValueError, match="no audit of 'dfew'; audited: all"):
        audit_table(tmp_path, "dfew")
    with pytest.raises(ValueError, match="holds no audit"):
        audit_table(tmp_path / "none")
