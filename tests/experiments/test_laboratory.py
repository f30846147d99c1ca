"""Planted answerers do what their cause says, and the laboratory marks a measure by that truth."""

import pytest

from r1omni.claims import claims, levels, reversed_claims
from r1omni.completions import render
from r1omni.evaluation.audit.answerer import Media
from r1omni.evaluation.audit_results import Measured
from r1omni.experiments.laboratory import (
    CAUSES,
    MEASURES,
    QUESTIONS,
    Laboratory,
    masked_drop,
    render_laboratory,
    verdict_of,
)
from r1omni.experiments.planted import Planted, World, _form_code, _in_form, describe
from r1omni.judging import judge

USUAL = {
    "angry": {"brows": -1, "eyes": -1, "mouth": -1, "loudness": 1, "rate": 1},
    "happy": {"brows": 1, "eyes": 0, "mouth": 1, "loudness": 1, "rate": 0},
    "sad": {"brows": 1, "eyes": -1, "mouth": -1, "loudness": -1, "rate": -1},
}
# Clip x is angry in the face and sad in the voice.
CLIPS = USUAL | {"x": {n: USUAL["angry" if n in ("brows", "eyes", "mouth") else "sad"][n]
                       for n in USUAL["sad"]}}  # fmt: skip


def by_rate(text: str) -> str:
    return {1: "angry", 0: "happy", -1: "sad", None: "happy"}[levels(text).get("rate")]


WORLD = World(CLIPS, by_rate, USUAL)
X, SILENT = Media("x", "x"), Media("x", None)


def answers(planted: Planted, media: Media, text: str) -> str:
    row = planted.label_logprobs([media], [[text]], list(USUAL))[0, 0]
    return list(USUAL)[int(row.argmax())]


def said(planted: Planted, media: Media):
    return judge(planted.complete([media])[0], "reasoned")


def test_the_senses_that_are_planted_decide():
    # x shares brows, eyes and mouth with angry; loudness and rate with sad, with which it also
    # shares eyes and mouth: 4 levels of 5
    assert said(Planted(WORLD, frozenset({"face"})), X).prediction == "angry"
    assert said(Planted(WORLD, frozenset({"voice"})), X).prediction == "sad"
    assert said(Planted(WORLD), X).prediction == "sad"
    assert said(Planted(WORLD, startled=True), SILENT).prediction == "sad"  # the last label


def test_what_is_read_decides():
    own = describe(CLIPS["x"])
    other = own.replace("slow", "fast")
    assert answers(Planted(WORLD), X, other) == "sad"
    assert answers(Planted(WORLD, reads="claims"), X, other) == "angry"
    assert answers(Planted(WORLD, reads="true claims"), X, other) == "sad"
    assert answers(Planted(WORLD, reads="true claims"), X, own) == by_rate(own) == "sad"
    confused = Planted(WORLD, reads="opening")
    usual = said(confused, X).rationale
    (unusual,) = {describe(CLIPS["x"], i_see) for i_see in (False, True)} - {usual}
    assert (answers(confused, X, usual), answers(confused, X, unusual)) == ("sad", "happy")


def test_what_is_said_is_what_was_planted():
    honest = said(Planted(WORLD), SILENT).rationale
    assert levels(honest) == {"brows": -1, "eyes": -1, "mouth": -1}
    assert honest.endswith("; I hear nothing.")
    made_up = said(Planted(WORLD, says="the absent, too"), SILENT).rationale
    assert levels(made_up) == levels(describe(USUAL["angry"]))
    assert levels(said(Planted(WORLD, says="a stereotype"), X).rationale) == levels(
        describe(USUAL["sad"])
    )
    # the face of x is angry: an angry voice is told, whatever is heard
    borrowed = levels(said(Planted(WORLD, says="a voice by the face"), X).rationale)
    assert (borrowed["loudness"], borrowed["brows"]) == (1, -1)


@pytest.mark.parametrize("code", range(12))
def test_the_form_names_the_answer_whatever_the_claims_are(code):
    text = _in_form(CLIPS["x"], code)
    assert _form_code(text) == code == _form_code(reversed_claims(text))
    assert all(CLIPS["x"][claim.attribute] == claim.level for claim in claims(text))


def test_who_reads_the_form_answers_as_it_would_and_follows_a_foreign_form():
    planted = Planted(WORLD, reads="form")
    own = said(planted, X)
    assert own.prediction == "sad"
    assert answers(planted, X, reversed_claims(own.rationale)) == "sad"
    foreign = said(planted, Media("happy", "happy"))
    assert answers(planted, X, foreign.rationale) == foreign.prediction == "happy"


def test_certainty_covers_the_completion():
    text = render(describe(CLIPS["x"]), "sad")
    ((token,),) = Planted(WORLD).token_logprobs([X], [text])
    assert (token.start, token.end) == (0, len(text))


def test_a_measure_is_marked_by_its_distance_from_the_truth():
    assert [verdict_of(v, 0.0) for v in (0.25, 0.4, 0.5)] == ["right", "unclear", "fooled"]
    assert verdict_of(None, 0.0) == verdict_of(0.2, None) == ""
    # .8 with both; in silence .5, in the dark .7: .3 and .1 are lost
    assert masked_drop(
        {"war": 0.8, "absent.audio.war": 0.5, "absent.video.war": 0.7}
    ) == pytest.approx(0.75)
    assert masked_drop({"war": 0.5, "absent.audio.war": 0.5, "absent.video.war": 0.6}) is None


def test_the_table_names_who_fools_a_measure_and_leaves_cells_empty():
    numbers = {
        "war": 1.0, "absent.audio.war": 0.0, "absent.video.war": 0.0,
        "rationale.swap_unchanged": 0.0,
    }  # fmt: skip
    row = {key: Measured(value=value, n=1) for key, value in numbers.items()}
    page = render_laboratory(Laboratory(clips=3, answerers={c.name: row for c in CAUSES}))
    fooled = ", ".join(c.name for c in CAUSES if c.truth["content decides"] <= 0.5)
    question = QUESTIONS["content decides"]
    assert f"| {question} | swap: answer changes | 2 of 12 | {fooled} |" in page
    assert f"| {question} | swap: answer follows | 0 of 0 |  |" in page
    assert "| half a reader | 50 | 100 ✗ |  |  |  |  |  |  |" in page


def test_every_measure_answers_a_question_and_every_truth_is_asked_for():
    assert {measure.question for measure in MEASURES} == set(QUESTIONS)
    assert {question for cause in CAUSES for question in cause.truth} == set(QUESTIONS)
