"""Rationales and scenes against the side file."""

from pathlib import Path

import pandas as pd
import pytest
from known_labels import LABELS
from made_up_run import Run, make_row

from r1omni.completions import render
from r1omni.corpora.synthetic import attributes
from r1omni.corpora.synthetic.attributes import UNSEEN, prototype
from r1omni.emotions import EMOTIONS
from r1omni.evaluation.truth import Truth, rationale_truth, read_truth, scene_following

HAPPY = Truth("happy", EMOTIONS.index("sad"), prototype("happy"))  # a happy clip, sad's scene


def test_scene_i_is_the_scene_of_emotion_i():
    assert tuple(attributes._PROTOTYPES) == EMOTIONS


def test_the_share_of_true_statements_is_counted_for_face_and_voice():
    """Happy truly smiles, with narrowed eyes and a loud, fast voice; its brows are not raised."""
    said = "The mouth is smiling, eyes narrowed and brows raised; the voice is loud and slow."
    found = rationale_truth([make_row(render(said, "happy"))], {"dfew/1": HAPPY})
    assert found is not None
    assert (found.face, found.voice, found.n_statements) == (2 / 3, 1 / 2, 5)
    assert (found.n_face, found.n_voice) == (3, 2)


def test_a_malformed_completion_states_nothing():
    found = rationale_truth([make_row("The mouth is smiling")], {"dfew/1": HAPPY})
    assert found is not None
    assert (found.face, found.voice, found.n_statements) == (None, None, 0)


def test_direct_answers_and_unknown_clips_have_no_rationale_to_be_true():
    assert rationale_truth([make_row("happy", mode="direct")], {"dfew/1": HAPPY}) is None
    assert rationale_truth([make_row(render("smiling", "happy"))], {}) is None


def test_following_a_contradicting_scene_is_counted():
    truth = {f"dfew/{i}": HAPPY for i in range(4)}
    rows = [
        make_row(render("a", answer), clip_id=f"dfew/{i}")
        for i, answer in enumerate(["sad", "happy", "sad", "fear"])
    ]
    found = scene_following(rows, truth, LABELS["dfew"])
    assert found is not None
    assert (found.share, found.n) == (0.5, 4)


def test_scenes_of_the_label_itself_or_of_emotions_that_the_corpus_lacks_do_not_count():
    own = Truth("happy", EMOTIONS.index("happy"), prototype("happy"))
    foreign = Truth("happy", EMOTIONS.index("calm"), prototype("happy"))
    rows = [make_row(render("a", "happy")), make_row(render("a", "calm"), clip_id="dfew/2")]
    assert scene_following(rows, {"dfew/1": own, "dfew/2": foreign}, LABELS["dfew"]) is None


def test_clips_that_show_no_scene_do_not_count():
    unseen = Truth("happy", UNSEEN, prototype("happy"))
    assert (
        scene_following([make_row(render("a", "sad"))], {"dfew/1": unseen}, LABELS["dfew"]) is None
    )


def test_side_files_are_read_together(run: Run):
    truth = read_truth(run.truth)
    assert {clip_id.split("/")[0] for clip_id in truth} == {"dfew", "mafw", "ravdess"}
    assert set(truth["dfew/000"].levels) == set(attributes.ATTRIBUTES)


def test_no_side_files_give_no_truth():
    assert read_truth([]) == {}


def test_a_side_file_without_a_column_is_named(tmp_path: Path, run: Run):
    path = tmp_path / "broken.parquet"
    pd.read_parquet(run.truth[0]).drop(columns=["scene"]).to_parquet(path)
    with pytest.raises(ValueError, match=r"broken\.parquet: missing columns \['scene'\]"):
        read_truth([path])
