"""Sets of emotion words: the table, the rules for words, the scores, and brought wheels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_run import SCORE, Run

from r1omni.emotion_families import GROUPINGS, TABLE, families, read_families
from r1omni.emotions import EMOTIONS, VARIANTS
from r1omni.evaluation.affectgpt_wheels import affectgpt_scores, read_wheels
from r1omni.evaluation.report.tables import words_table
from r1omni.evaluation.results import read_metrics, write_metrics
from r1omni.evaluation.score import run_score
from r1omni.evaluation.wheels import set_scores, split_labels, word_scores

GO_EMOTIONS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion",
    "curiosity", "desire", "disappointment", "disapproval", "disgust", "embarrassment",
    "excitement", "fear", "gratitude", "grief", "joy", "love", "nervousness", "optimism", "pride",
    "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
NONSENSE = ("glorp", "wibble", "frandor", "quux", "snerv")
EKMAN = families().grouping("ekman")


def test_the_table_has_33_families_and_the_groups_of_four_theories():
    table = families()
    groups = {g: {row[g] for row in table.groups.values()} for g in GROUPINGS}
    assert len(table.groups) == 33
    assert 550 <= len(table.family_of) <= 650
    assert {g: len(found) for g, found in groups.items()} == {
        "ekman": 8, "plutchik": 9, "shaver": 7, "quadrant": 5,  # each with neutral
    }  # fmt: skip


def test_the_table_agrees_with_the_labels_and_covers_goemotions():
    table = families()
    assert all(table.family(word) == table.family(VARIANTS[word]) for word in VARIANTS)
    assert len({table.family(emotion) for emotion in EMOTIONS}) == 12
    assert sum(table.family(label) is not None for label in GO_EMOTIONS) >= 26


@pytest.mark.parametrize(
    ("label", "family"),
    [
        ("Happy.", "joy"), ("worriedness", "anxiety"), ("furiously", "anger"), ("happier", "joy"),
        ("a bit sad", "sadness"), ("self-conscious", "shame"), ("very frustrated", "irritation"),
        ("not happy", None), ("isn't sad", None), ("without joy", None), ("non-hostile", None),
        ("isn’t sad", None), ("cannot be sad", None),  # noqa: RUF001
        ("sad anger", None), ("a very happy man", None), ("glorp", None), ("", None),
    ],
)  # fmt: skip
def test_a_label_is_a_word_an_ending_or_a_phrase_with_one_family(label: str, family: str | None):
    assert families().family(label) == family


@pytest.mark.parametrize(  # as EMER's open labels are written
    ("answer", "found"),
    [
        ("happy, excited", ["joy", "excitement"]),
        ("Angry and frustrated", ["anger", "irritation"]),
        ("worried; anxious, Worried", ["anxiety", "anxiety"]),
        ("doubtful, surprised, and dissatisfied", ["confusion", "surprise", "disappointment"]),
        ("sad, helpless, wronged", ["sadness", "helplessness", None]),
        ("no longer angry, calm", [None, "calm"]),
        ("a little nervous and embarrassed", ["anxiety", "shame"]),
        ("grandiose", [None]),
        ("serious; concerned\ndistressed", ["seriousness", "anxiety", "anxiety"]),
        ("mocking, contempt, not pleased", ["contempt", "contempt", None]),
    ],
)
def test_answers_are_split_into_labels(answer: str, found: list[str | None]):
    assert [families().family(label) for label in split_labels(answer)] == found


def test_an_answer_with_and_inside_a_word_is_not_split():
    assert split_labels("grandiose") == ("grandiose",)
    assert split_labels(None) == split_labels(" , ;") == ()


def test_set_scores_by_hand():
    truth = [("happy", "surprised"), ("sad",), ("angry", "glorp"), ("glorp",)]
    said = [("joyful", "glad", "wibble"), (), ("furious", "annoyed"), ("happy",)]
    scores = set_scores(truth, said, EKMAN)
    # clip 1: {happiness, wibble} against two: 1/2, 1/2; clip 2: 0, 0; clip 3: {anger}: 1, 1
    assert (scores.precision, scores.recall, scores.f) == (0.5, 0.5, 0.5)
    assert (scores.hit, scores.n) == (2 / 3, 3)  # clip 4 has no known true word
    assert word_scores(truth, said).unknown_truth == 2
    assert word_scores(truth, said).oov_rate == 1 / 6
    assert word_scores(truth, said).set_size == 6 / 4


def test_five_nonsense_words_beside_a_right_one_cut_f_by_at_least_half():
    truth = [("happy", "excited"), ("sad",), ("angry",)]
    right = [words[:1] for words in truth]
    alone = word_scores(truth, right)
    buried = word_scores(truth, [(*words, *NONSENSE) for words in right])
    assert buried.f <= alone.f / 2
    assert buried.oov_rate == 5 / 6


def test_one_word_against_one_label_is_accuracy_over_merged_classes():
    truth = [(label,) for label in ("fear", "anxious", "happy", "sad")]
    said = [(label,) for label in ("anxious", "anxious", "angry", "helpless")]
    assert set_scores(truth, said, EKMAN).f == 0.75


def test_trivial_models_by_hand():
    scores = word_scores([("happy",), ("happy",), ("sad",)], [("happy",)] * 3)
    # all twelve: one group of Ekman's 8 and Plutchik's 9 without anticipation and trust (7), of
    # Shaver's 7 without love (6), of the 5 quadrants; recall 1, so F = 2 p / (1 + p)
    wanted = [2 * p / (1 + p) for p in (1 / 8, 1 / 7, 1 / 6, 1 / 5)]
    assert scores.baselines["all twelve"] == pytest.approx(np.mean(wanted))
    assert scores.baselines["three commonest"] == pytest.approx(2 / 3)  # happy, sad: p = 1/2


LABELS = st.lists(st.sampled_from([*EMOTIONS, "elated", "glorp", "not sad"]), max_size=5)


@settings(deadline=None)
@given(st.lists(st.tuples(LABELS, LABELS), max_size=6), st.randoms())
def test_scores_lie_between_0_and_1_and_do_not_depend_on_the_order(clips, random):
    for grouping in GROUPINGS:
        group_of = families().grouping(grouping)
        scores = set_scores(*([c[i] for c in clips] for i in (0, 1)), group_of)
        mixed = [tuple(random.sample(words, len(words)) for words in clip) for clip in clips]
        assert set_scores(*([c[i] for c in mixed] for i in (0, 1)), group_of) == scores
        assert 0 <= scores.f <= 1 and 0 <= scores.hit <= 1
        assert min(scores.precision, scores.recall) <= scores.f + 1e-12


def test_a_changed_row_changes_exactly_its_words(tmp_path: Path):
    changed = tmp_path / "families.csv"
    text = TABLE.read_text(encoding="utf-8")
    changed.write_text(text.replace("guilt,sadness,", "guilt,fear,", 1), encoding="utf-8")
    before, after = families(), read_families(changed)
    differ = {
        word
        for word in before.family_of
        if before.grouping("ekman")(word) != after.grouping("ekman")(word)
    }
    assert differ == {word for word, family in before.family_of.items() if family == "guilt"}


HEAD = "family,ekman,plutchik,shaver,quadrant,words\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "a,x,x,x,x,glad\nb,x,x,x,x,mad glad\n", ":3: 'glad' is in line 2, too"),
        (HEAD + "a,x,x,x,x,glad\na,x,x,x,x,mad\n", ":3: the family 'a' stands twice"),
        (HEAD + "a,x,,x,x,glad\n", ":2: expected a value for each"),
        (HEAD + "a,x,x,x,x,Glad\n", ":2: 'Glad' is to be written 'glad'"),
        ("family,words\na,glad\n", ":1: columns"),
    ],
)
def test_a_table_with_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, said: str):
    path = tmp_path / "families.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"families\.csv") as error:
        read_families(path)
    assert said in str(error.value)


def bring_wheels(folder: Path) -> None:
    (folder / "format_mapping.json").write_text(
        '{"cheerily": ["cheerful"], "sad": ["sad"], "cheerful": ["cheerful"]}'
    )
    (folder / "raw_mapping.csv").write_text(
        "word,target\ncheerful,zesty\ncheerful,merry\nsad,sad\nsad,blue\n"
    )
    np.savez(folder / "wheel1.npz", word=["zesty", "merry", "sad"], target=["z", "happy", "sad"])


def test_brought_wheels_follow_affectgpts_rules(tmp_path: Path):
    bring_wheels(tmp_path)
    wheels = read_wheels(tmp_path)
    assert list(wheels) == ["wheel1"]
    assert wheels["wheel1"]("cheerily") == "happy"  # merry is before zesty
    assert wheels["wheel1"]("glad") is None
    truth, right = [("cheerful", "sad")], [("cheerily",)]
    buried = [(*right[0], *NONSENSE)]
    assert affectgpt_scores(truth, right, wheels["wheel1"]).f == pytest.approx(2 / 3)
    assert affectgpt_scores(truth, buried, wheels["wheel1"]).f == pytest.approx(2 / 3)
    assert set_scores(truth, buried, wheels["wheel1"]).f == pytest.approx(2 / 8)


def test_the_words_that_a_wheels_tables_lead_to_are_folded_too(tmp_path: Path):
    (tmp_path / "format_mapping.csv").write_text("word,target\nhappy,Joy\n")
    (tmp_path / "wheel1.csv").write_text("word,target\nJoy,positive\n")
    assert read_wheels(tmp_path)["wheel1"]("happy") == "positive"


def test_pickled_wheels_are_refused(tmp_path: Path):
    np.savez(tmp_path / "wheels.npz", word=np.array([{"happy": "joy"}], dtype=object), target=["a"])
    with pytest.raises(ValueError, match=r"wheels\.npz: holds pickled objects .* never loaded"):
        read_wheels(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("w.json", "[1]", r"w\.json: expected words"),
        ("w.json", '{"a": [1]}', r"w\.json: expected words"),
        ("w.csv", "a,b\nx,y\n", r"w\.csv: expected words"),
        ("w.npz", "no archive", r"w\.npz: holds pickled"),
        ("w.json", "{}", r"w\.json: no words"),
        ("w.npz", "PK\x03\x04 no archive", r"w\.npz: holds pickled"),
        ("w.csv", "word,target\nhappy,\n", r"w\.csv: 'happy' has no target"),
        ("w.txt", "a b", "no wheel"),
    ],
)
def test_a_folder_that_holds_no_wheels_is_refused(tmp_path: Path, name: str, text: str, said: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_wheels(tmp_path)


@pytest.mark.parametrize("name", ["format_mapping.pkl", "raw_mapping.npy", "w.xlsx"])
def test_a_table_that_cannot_be_read_is_not_passed_over(tmp_path: Path, name: str):
    """Without its mappings a wheel would give other scores, and nobody would know."""
    (tmp_path / "wheel.csv").write_text("word,target\nhappy,joy\n")
    (tmp_path / "README.md").write_text("whose wheels these are")
    assert read_wheels(tmp_path)["wheel"]("happy") == "joy"
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=rf"{name}: no table that is read"):
        read_wheels(tmp_path)


def test_an_archive_of_uneven_lists_is_named(tmp_path: Path):
    np.savez(tmp_path / "w.npz", word=["happy", "sad"], target=["joy"])
    with pytest.raises(ValueError, match=r"w\.npz: \(2,\) words and \(1,\) targets"):
        read_wheels(tmp_path)


def test_score_writes_the_words_and_reads_metrics_without_them(run: Run, tmp_path: Path):
    bring_wheels(tmp_path)
    out = tmp_path / "metrics.json"
    score = SCORE.model_copy(update={"wheels": tmp_path})
    run_score(run.predictions, [], out, tmp_path / "plots", score=score)
    metrics = read_metrics(out)
    words = metrics["grpo"]["dfew"].words
    assert words is not None and words.affectgpt is not None
    assert words.oov_rate == 0.0  # "ecstatic", which is no label, is in the table
    assert words.set_size < 1  # completions that are not well formed have no answer
    assert words.affectgpt["wheel1"].n == 10  # of the labels, the wheel knows sad alone
    assert words.groupings["ekman"].f >= metrics["grpo"]["dfew"].war - 1e-9
    table = words_table(metrics)
    assert table is not None
    assert table.rows[0][0] == "base, DFEW"
    base = metrics["base"]["dfew"].words
    assert base is not None and table.rows[0][1][0].text == f"{100 * base.groupings['ekman'].f:.1f}"
    older = {"grpo": {"dfew": metrics["grpo"]["dfew"].model_copy(update={"words": None})}}
    write_metrics(older, out)
    assert '"words"' not in out.read_text(encoding="utf-8")
    assert words_table(read_metrics(out)) is None
