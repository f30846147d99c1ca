"""The audit on answerers whose truth is known by construction: it must find exactly that."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1omni.claims import levels
from r1omni.evaluation.audit import answers, grounding
from r1omni.evaluation.audit.answerer import Media
from r1omni.evaluation.audit.certainty import auc, certainty
from r1omni.evaluation.audit.choosing import choose, form_of
from r1omni.evaluation.audit.contributions import contributions, share
from r1omni.evaluation.audit.examine import Foreign, Subject, examine
from r1omni.evaluation.audit.grounding import Said
from r1omni.evaluation.audit.shapley import donors, shapley
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.experiments.planted import Planted, World, describe
from r1omni.judging import judge

LABELS = ("angry", "happy", "sad")
BOOTSTRAP = Bootstrap(samples=50, confidence=0.95, seed=1)
# Each clip's picture shows brows -1 or +1, its sound is soft or loud: four kinds of clips.
CLIPS = [f"c{i:02d}" for i in range(16)]
BROWS = {clip: (-1, 1)[i % 2] for i, clip in enumerate(CLIPS)}
LOUD = {clip: (-1, 1)[i // 2 % 2] for i, clip in enumerate(CLIPS)}
VERDICTS = {
    clip: {
        "brows": tuple(float(level == BROWS[clip]) for level in (-1, 0, 1)),
        "loudness": tuple(float(level == LOUD[clip]) for level in (-1, 0, 1)),
    }
    for clip in CLIPS
}


def read_one(text: str) -> str:
    """A reader of the voice: loud is happy."""
    loud = levels(text).get("loudness")
    return "sad" if loud is None else ("angry", "happy")[loud > 0]


def read(rationales, corpora) -> list[str]:
    return [read_one(text) for text in rationales]


WORLD = World(
    {clip: {"brows": BROWS[clip], "loudness": LOUD[clip]} for clip in CLIPS},
    read_one,
    {
        label: {"brows": level, "loudness": level}
        for label, level in (("angry", -1), ("happy", 1), ("sad", 0))
    },
)
AUDIO, VIDEO = Planted(WORLD, frozenset({"voice"})), Planted(WORLD, frozenset({"face"}))
NOTHING, READER = Planted(WORLD, frozenset()), Planted(WORLD, reads="claims")
INVENTOR = Planted(WORLD, frozenset({"voice"}), says="the absent, too")


def tell(brows: int | None, loud: int | None) -> str:
    """An honest rationale; None: nothing is seen, nothing is heard."""
    known = {"brows": brows, "loudness": loud}
    return describe({name: level for name, level in known.items() if level is not None})


def examined_by(fake: Planted, n_donors: int = 2):
    completions = [judge(text, "reasoned") for text in fake.complete([Media(c, c) for c in CLIPS])]
    theirs = donors(len(CLIPS), n_donors, seed=1)
    subjects = []
    for i, clip in enumerate(CLIPS):
        j = completions[i]
        given = tuple((CLIPS[d], completions[d].rationale) for d in theirs[:, i])
        subjects.append(Subject(clip, "corpus", "happy", j.prediction, j.rationale, given))
    return examine(fake, subjects, LABELS)


@pytest.mark.parametrize(("uses", "share"), [(AUDIO, 1.0), (VIDEO, 0.0)])
def test_the_one_modality_that_decides_has_the_whole_share(uses, share):
    found = answers.shapley_values(examined_by(uses), BOOTSTRAP)
    assert found["shapley.audio_share"].value == pytest.approx(share, abs=1e-12)
    assert found["shapley.blank.audio_share"].value == pytest.approx(share, abs=1e-12)
    assert found["rationale.shapley_share"].value == pytest.approx(0.0, abs=1e-12)


def test_who_answers_the_same_to_everything_has_no_shares():
    found = answers.shapley_values(examined_by(NOTHING), BOOTSTRAP)
    assert found["shapley.audio_share"] is None  # no contribution to share, not one half


def test_contributions_of_rounding_alone_are_none():
    tiny = {"video": np.array([1e-16, 0.5]), "audio": np.array([-1e-16, 0.25])}
    own, whole = share(tiny, "audio")
    assert (own.tolist(), whole.tolist()) == ([0.0, 0.25], [0.0, 0.75])


def test_values_sum_to_what_all_players_gain_over_none():
    examined = examined_by(AUDIO)
    phi = contributions(examined).donated
    own = {e.subject.clip_id: e.own for e in examined}
    for i, e in enumerate(examined):
        at = LABELS.index(e.subject.prediction)
        none = np.logaddexp.reduce([own[d][at] for d, _ in e.subject.donors]) - np.log(2)
        assert phi["video"][i] + phi["audio"][i] == pytest.approx(e.own[at] - none, abs=1e-9)


@pytest.mark.parametrize(("uses", "reliance"), [(AUDIO, 0.0), (NOTHING, 0.0), (READER, 1.0)])
def test_reliance_is_0_for_who_ignores_the_rationale_and_1_for_who_reads_it(uses, reliance):
    found = answers.forced_rationales(examined_by(uses), read, BOOTSTRAP)
    assert found["rationale.reversed_changed"].value == reliance
    assert found["rationale.reader_changed"].value == 1.0
    assert found["rationale.reliance"].value == reliance


@pytest.mark.parametrize(
    ("uses", "same", "changed"),
    [
        (READER, 1.0, 1.0),  # the text is all that it needs
        (NOTHING, 1.0, 0.0),  # it answers the same to everything
        (AUDIO, 0.5, 0.0),  # in silence it always answers one of two labels
    ],
)
def test_what_the_rationale_alone_leads_to(uses, same, changed):
    found = answers.rationale_alone(examined_by(uses), BOOTSTRAP)
    assert found["rationale.alone.same"].value == same
    assert found["rationale.alone.reversed_changed"].value == changed
    assert found["rationale.alone.same"].n == len(CLIPS)


def test_the_accuracy_behind_the_rationale_alone():
    """The reader calls loud clips happy, which is every clip's label: half of them are loud."""
    found = answers.rationale_alone(examined_by(READER), BOOTSTRAP)
    assert found["rationale.alone.war"].value == 0.5


def test_whoever_reads_the_rationale_has_its_whole_share():
    found = answers.shapley_values(examined_by(READER), BOOTSTRAP)
    assert found["rationale.shapley_share"].value == pytest.approx(1.0, abs=1e-12)


def test_claims_of_what_is_absent_are_counted():
    honest = grounding.absent_claims(examined_by(AUDIO), BOOTSTRAP)
    assert [m.value for m in honest.values()] == [0.0, 0.0]
    other = grounding.absent_claims(examined_by(INVENTOR), BOOTSTRAP)
    assert [m.value for m in other.values()] == [1.0, 1.0]
    assert other["absence.voice_claims_in_silence"].n == len(CLIPS)


def test_who_describes_what_it_is_given_follows_the_swap_and_keeps_the_rest():
    found = grounding.media_swaps(examined_by(AUDIO), VERDICTS, BOOTSTRAP)
    assert {key: m.value for key, m in found.items()} == {
        "media_swap.audio.follows": 1.0, "media_swap.audio.kept": 1.0,
        "media_swap.video.follows": 1.0, "media_swap.video.kept": 1.0,
    }  # fmt: skip


def test_accuracy_without_a_modality():
    found = answers.absence(examined_by(AUDIO), BOOTSTRAP)
    loud = sum(level == 1 for level in LOUD.values()) / len(CLIPS)
    assert found["absent.audio.war"].value == 0.0  # all labels are happy, in silence it says angry
    assert found["absent.video.war"].value == loud
    assert found["media_swap.video.answer_changed"].value == 0.0


def test_no_donors_leave_out_what_needs_them():
    found = answers.shapley_values(examined_by(AUDIO, n_donors=0), BOOTSTRAP)
    assert set(found) == {f"shapley.blank.{key}" for key in ("video", "audio", "audio_share")}


# --- grounding


def said(texts, answer="happy"):
    return [Said(clip, "corpus", answer, text) for clip, text in texts.items()]


def test_specificity_is_0_for_a_reciter_and_1_for_who_looks():
    honest = said({clip: tell(BROWS[clip], LOUD[clip]) for clip in CLIPS})
    reciter = said({clip: tell(1, 1) for clip in CLIPS})
    for side in ("face", "voice"):
        assert grounding.specificity(honest, VERDICTS, side, BOOTSTRAP).value == pytest.approx(1)
        value = grounding.specificity(reciter, VERDICTS, side, BOOTSTRAP).value
        assert value == pytest.approx(0, abs=1e-12)


def test_specificity_by_hand():
    # Three clips of one answer: truths +1, +1, -1; claims +1, +1, +1.
    texts = {clip: tell(1, None) for clip in ("c01", "c03", "c00")}
    # t = 2; dealt = (1/2) + (1/2) + (2/2) = 2: (2 - 2) / (3 - 2)
    assert grounding.specificity(said(texts), VERDICTS, "face", BOOTSTRAP).value == 0.0
    texts["c00"] = tell(-1, None)
    # t = 3; dealt = 1/2 + 1/2 + 0: (3 - 1) / (3 - 1)
    assert grounding.specificity(said(texts), VERDICTS, "face", BOOTSTRAP).value == 1.0


def test_claims_of_what_no_judge_knows_are_not_counted_as_wrong():
    rows = said({"c00": "The brows are lowered, eyes wide; the voice is loud."})
    found = grounding.grounding(rows, VERDICTS, BOOTSTRAP)
    assert found["grounding.face.judged"].value == 0.5
    assert found["grounding.face.supported"].value == 1.0
    assert found["grounding.voice.supported"].value == 0.0
    assert found["grounding.voice.contradicted"].value == 1.0
    assert found["grounding.voice.recall"].value == 0.0


def test_a_negated_claim_is_supported_by_what_it_denies():
    verdict = {"loudness": (0.7, 0.2, 0.1)}
    assert grounding.support(verdict, "loudness", 1, True) == pytest.approx(0.9)
    assert grounding.support(verdict, "pitch", 1) is None


# --- choosing


@dataclass
class Row:
    clip_id: str
    prediction: str | None
    rationale: str | None
    corpus: str = "corpus"
    label: str = "happy"


def test_a_foreign_rationale_has_another_answer_and_the_same_form():
    rows = [
        Row("a", "happy", "The brows are raised; the voice is loud."),
        Row("b", "happy", "The brows are lowered; the voice is loud."),
        Row("c", "sad", "I see raised brows; I hear a soft voice."),
        Row("d", "angry", "The eyes are wide; the voice is fast."),
        Row("e", None, None),
    ]
    a, b, c, d, e = choose(rows, clips=10, n_donors=3, seed=1)
    assert a.swap.prediction in ("sad", "angry")
    assert a.same_form.rationale == rows[3].rationale == b.same_form.rationale
    assert form_of(rows[0].rationale) == ("the", 1, 1) == form_of(rows[3].rationale)
    assert c.same_form is None and d.same_form.prediction == "happy"
    assert e.swap is None and e.to_force() == (None, None, None)
    assert choose(rows, clips=3, n_donors=1, seed=1) == choose(rows, clips=3, n_donors=1, seed=1)


@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 100))
def test_donors_are_derangements_without_repetition(n, k, seed):
    found = donors(n, k, seed)
    assert found.shape == (min(k, n - 1), n)
    for i in range(n):
        assert i not in found[:, i] and len(set(found[:, i])) == len(found)
    for row in found:
        assert sorted(row) == list(range(n))


# --- Shapley


@given(st.integers(2, 4), st.integers(0, 2**31))
def test_shapley_is_efficient_symmetric_and_gives_a_dummy_nothing(n, seed):
    rng = np.random.default_rng(seed)
    players = [f"p{i}" for i in range(n)]
    subsets = [frozenset(p for i, p in enumerate(players) if b >> i & 1) for b in range(2**n)]
    game = {s: rng.normal(size=3) for s in subsets}
    phi = shapley(game)
    gain = game[frozenset(players)] - game[frozenset()]
    assert np.allclose(sum(phi.values()), gain, atol=1e-9)
    dummy = {s: game[s - {"p0"}] for s in subsets}
    assert np.allclose(shapley(dummy)["p0"], 0, atol=1e-9)
    by_size = rng.normal(size=n + 1)
    alike = shapley({s: np.array([by_size[len(s)]]) for s in subsets})
    assert np.allclose(list(alike.values()), alike["p0"], atol=1e-9)


def test_shapley_by_hand_and_without_a_subset():
    values = {(): 0.0, ("a",): 1.0, ("v",): 3.0, ("a", "v"): 6.0}
    game = {frozenset(k): np.array([v]) for k, v in values.items()}
    phi = shapley(game)  # a: (1 - 0 + 6 - 3) / 2, v: (3 - 0 + 6 - 1) / 2
    assert (phi["a"][0], phi["v"][0]) == (2.0, 4.0)
    del game[frozenset({"a"})]
    with pytest.raises(ValueError, match=r"subset \['a'\]"):
        shapley(game)


# --- statistics


def test_ratios_sum_over_clips_and_nothing_is_no_number():
    measured = BOOTSTRAP.ratio([1, 0, 2], [1, 0, 4])
    assert (measured.value, measured.n) == (0.6, 2)
    assert measured.low <= 0.6 <= measured.high
    assert BOOTSTRAP.ratio([], []) is None and BOOTSTRAP.ratio([0], [0]) is None
    assert BOOTSTRAP.mean_recall(np.array(["a", "a", "b"]), [1, 0, 1]).value == 0.75


def test_auc_by_hand():
    assert auc([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0]) == (1 + 1 + 0.5 + 1) / 4
    assert auc([1.0], [1]) is None


def test_certainty_reads_each_claims_own_words():
    examined = examined_by(AUDIO)
    assert examined[0].certainty == (0.5, 0.5)
    assert certainty(examined, VERDICTS, BOOTSTRAP) == {}  # all claims are true: nothing to tell


def test_supported_claims_are_counted_by_clip():
    text = "Raised brows and wide eyes."
    verdicts = {  # brows are raised in all, eyes are wide in half of the clips
        f"c{i}": {"brows": (0.0, 0.0, 1.0), "eyes": (float(i % 2), 0.0, 1.0 - i % 2)}
        for i in range(4)
    }
    examined = [
        SimpleNamespace(subject=SimpleNamespace(clip_id=name, rationale=text), certainty=(0.9, 0.5))
        for name in verdicts
    ]
    found = certainty(examined, verdicts, BOOTSTRAP)
    every, kept = (found[f"certainty.face.supported_at_{share}"] for share in ("100", "70"))
    assert (every.value, every.n) == (6 / 8, 4)  # claims, and the clips that are resampled
    assert (kept.value, kept.n) == (5 / 6, 4)  # 4 brows, then the first two eyes


def test_a_swap_counts_where_the_foreign_answer_can_be_followed():
    happy, angry = np.log([0.1, 0.8, 0.1]), np.log([0.8, 0.1, 0.1])  # of LABELS

    def forced(foreign: str, behind_it) -> SimpleNamespace:
        subject = SimpleNamespace(corpus="c", swap=Foreign("The voice is loud.", foreign))
        return SimpleNamespace(
            subject=subject, labels=LABELS, own=happy, forced={"swap": behind_it}
        )

    examined = [
        forced("joyful", happy),  # no label: cannot be followed
        forced("happy", happy),  # what the model takes for likeliest already
        forced("angry", angry),  # followed
        forced("sad", happy),  # not followed, unchanged
    ]
    found = answers.forced_rationales(examined, read, BOOTSTRAP)
    for key in ("rationale.swap_follows", "rationale.swap_unchanged"):
        assert (found[key].value, found[key].n) == (0.5, 2)
