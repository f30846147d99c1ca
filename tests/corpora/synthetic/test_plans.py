from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from known_labels import LABELS
from small_corpora import build_synthetic

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, FACE
from r1omni.corpora.synthetic.plans import CORPORA, apportion, plan
from r1omni.emotions import EMOTIONS

FULL = {"generic": 1200, "reasoning": 580, "dfew": 2050, "mafw": 2250, "ravdess": 480}


def test_apportioning_keeps_the_total_and_the_floor():
    assert apportion({"a": 3, "b": 1}, 8) == {"a": 6, "b": 2}
    assert apportion({"a": 99, "b": 1}, 20, floor=4) == {"a": 16, "b": 4}
    assert apportion({"a": 99, "b": 1}, 8, floor=4) == {"a": 6, "b": 2}  # half of an equal share
    assert apportion({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_plan_is_the_same_each_time_and_no_name_occurs_twice(corpus):
    synthetic = build_synthetic(FULL, shortcut=0.5, label_noise=0.08)
    planned = plan(corpus, synthetic)
    assert planned == plan(corpus, synthetic)
    assert [p.index for p in planned] == list(range(len(planned)))
    assert len({p.path for p in planned}) == len(planned)
    clip_ids = [p.clip_id for p in planned if p.clip_id]
    assert len(set(clip_ids)) == len(clip_ids)
    assert planned != plan(corpus, build_synthetic(FULL, seed=2))


def test_dfew_is_as_unbalanced_as_its_first_fold_with_a_floor():
    counts = Counter(p.label for p in plan("dfew", build_synthetic(FULL)))
    assert counts.total() == 2050
    assert counts["disgust"] == 40  # 25 by proportion; 8 in a test fold
    assert counts["neutral"] == pytest.approx(2050 * 534 / 2341, abs=8)


def test_label_noise_is_its_share_and_leaves_the_class_counts():
    planned = plan("dfew", build_synthetic(FULL, label_noise=0.08))
    wrong = [p for p in planned if p.label != p.latent.emotion]
    assert len(wrong) == round(0.08 * 2050)
    assert Counter(p.label for p in planned) == Counter(p.latent.emotion for p in planned)


def test_shortcuts_tie_scene_and_speaker_to_the_emotion():
    for shortcut in (0.0, 0.5, 0.9):
        planned = plan("mafw", build_synthetic(FULL, shortcut=shortcut))
        own = [p.latent.scene == EMOTIONS.index(p.latent.emotion) for p in planned]
        assert np.mean(own) == pytest.approx(shortcut + (1 - shortcut) / 12, abs=0.03)


def test_a_corpus_does_not_change_when_another_one_does():
    small = {**FULL, "mafw": 100}
    assert plan("dfew", build_synthetic(FULL)) == plan("dfew", build_synthetic(small))


def test_mafw_has_compound_and_silent_clips():
    planned = plan("mafw", build_synthetic(FULL))
    compound = [p for p in planned if p.second_label]
    assert len(compound) == 45
    assert all(p.clip_id is None and p.second_label != p.label for p in compound)
    assert len([p for p in planned if p.tracks == "video"]) == 4
    counts = Counter(p.label for p in planned if p.clip_id)
    assert set(counts) == set(LABELS["mafw"])
    assert min(counts.values()) >= 60


def test_ravdess_is_eight_actors_with_sixty_balanced_clips_and_two_distractors_each():
    planned = plan("ravdess", build_synthetic(FULL))
    kept = [p for p in planned if p.clip_id]
    assert Counter(p.person for p in kept) == dict.fromkeys(range(1, 9), 60)
    assert Counter(p.label for p in kept) == dict.fromkeys(LABELS["ravdess"], 64) | {"neutral": 32}
    assert len(planned) == 480 + 16
    assert len({(p.person, p.latent.speaker) for p in planned}) == 8
    assert kept[0].clip_id == "ravdess/01-01-01-01-01-01-01"
    assert kept[0].path == "Actor_01/01-01-01-01-01-01-01.mp4"


def test_part_of_an_actor_is_still_balanced():
    kept = [p for p in plan("ravdess", build_synthetic({"ravdess": 100})) if p.clip_id]
    assert Counter(p.person for p in kept) == {1: 50, 2: 50}
    assert sorted(Counter(p.label for p in kept).values()) == [8, 12, 12, 12, 14, 14, 14, 14]


def test_half_of_the_generic_clips_show_any_combination_in_either_style():
    planned = plan("generic", build_synthetic(FULL))
    assert set(Counter(p.label for p in planned).values()) == {100}
    assert Counter(p.style for p in planned) == {"wild": 600, "studio": 600}
    uniform = [p for p in planned if p.index % 4 < 2]
    levels = np.array([[p.latent.levels[name] for name in ATTRIBUTES] for p in uniform])
    for level in (-1, 0, 1):
        assert np.abs((levels == level).mean(0) - 1 / 3).max() < 0.08


def test_reasoned_clips_cover_every_label_but_calm():
    counts = Counter(p.label for p in plan("reasoning", build_synthetic(FULL)))
    assert set(counts) == set(LABELS["mafw"])
    assert min(counts.values()) >= 40


def test_an_unknown_corpus_and_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"synthetic\.corpora has no 'mafw'; it has dfew"):
        plan("mafw", build_synthetic({"dfew": 40}))
    with pytest.raises(ValueError, match="at most 1440"):
        plan("ravdess", build_synthetic({"ravdess": 2000}))
    synthetic = build_synthetic(FULL)
    noisy = synthetic.corpora["ravdess"].model_copy(update={"label_noise": 0.1})
    synthetic = synthetic.model_copy(update={"corpora": {"ravdess": noisy}})
    with pytest.raises(ValueError, match=r"ravdess\.label_noise"):
        plan("ravdess", synthetic)


def test_levels_of_the_face_do_not_follow_the_annotated_label():
    planned = plan("dfew", build_synthetic(FULL, label_noise=0.5))
    clean = plan("dfew", build_synthetic(FULL, label_noise=0.0))
    assert [p.latent for p in planned] == [p.latent for p in clean]
    assert replace(planned[0], label="x") == replace(clean[0], label="x")
    assert set(planned[0].latent.levels) > set(FACE)
