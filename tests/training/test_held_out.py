"""Held-out clips: the same whatever the order, never trained on, judged by numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1omni.corpora.clip import Clip
from r1omni.training.held_out import HeldOutSet, held_out_metrics, set_aside
from r1omni.training_config import HeldOutParams


def clip(corpus: str, number: int, split: str = "train", label: str | None = "sad") -> Clip:
    return Clip(
        clip_id=f"{corpus}/{number}",
        corpus=corpus,
        path=f"{number}.mp4",
        label=label,
        split=split,  # type: ignore[arg-type]
        fold=1,
        subject=None,
        rationale=None,
        duration=1.0,
        fps=8.0,
        n_frames=8,
        has_audio=True,
        sha256=f"{corpus}/{number}",
    )


CLIPS = [clip("dfew", i) for i in range(20)] + [clip("mafw", i) for i in range(10)]


@given(st.permutations(CLIPS), st.integers(0, 5), st.integers(0, 3))
def test_each_corpus_gives_that_many_and_the_order_does_not_matter(shuffled, count, seed):
    held_out = HeldOutParams(clips=count, seed=seed, every=1)
    rest, held = set_aside(shuffled, held_out)
    assert sorted(c.clip_id for c in rest + held) == sorted(c.clip_id for c in CLIPS)
    assert [sum(c.corpus == name for c in held) for name in ("dfew", "mafw")] == [count, count]
    assert {c.clip_id for c in held} == {c.clip_id for c in set_aside(CLIPS, held_out)[1]}


def test_another_seed_holds_out_other_clips():
    first, second = (
        {c.clip_id for c in set_aside(CLIPS, HeldOutParams(clips=5, seed=seed, every=1))[1]}
        for seed in (1, 2)
    )
    assert first != second


def test_test_clips_and_unlabelled_ones_are_never_held_out():
    odd = [clip("dfew", 90, split="test"), clip("dfew", 91, label=None)]
    rest, held = set_aside([*odd, *CLIPS], HeldOutParams(clips=5, seed=1, every=1))
    assert odd == rest[:2]
    assert all(c.split == "train" and c.label for c in held)


def test_more_than_half_of_a_corpus_is_refused_by_name():
    with pytest.raises(ValueError, match="more than half of mafw's 10 labelled training clips"):
        set_aside(CLIPS, HeldOutParams(clips=6, seed=1, every=1))


def test_an_evaluation_is_due_every_so_many_steps_and_at_the_end():
    watch = HeldOutSet([CLIPS[0]], None, "direct", 4, every=4)  # type: ignore[arg-type]
    assert [step for step in range(1, 11) if watch.due(step, 10)] == [4, 8, 10]
    assert not replace(watch, clips=[]).due(10, 10)


def test_war_uar_and_format_are_those_worked_by_hand():
    seen = held_out_metrics(
        ["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "no idea"], "direct"
    )
    assert seen == pytest.approx(
        {"held_out/war": 2 / 4, "held_out/uar": (2 / 3 + 0) / 2, "held_out/format": 3 / 4}
    )


def test_clips_of_one_subject_or_of_the_same_bytes_are_held_out_together():
    actors = [replace(c, subject=f"actor {i % 4}") for i, c in enumerate(CLIPS[:20])]
    rest, held = set_aside(actors, HeldOutParams(clips=3, seed=1, every=1))
    assert len(held) == 5  # the whole of one actor
    assert {c.subject for c in held}.isdisjoint({c.subject for c in rest})
    twins = [replace(c, sha256=str(i // 2)) for i, c in enumerate(CLIPS[:20])]
    rest, held = set_aside(twins, HeldOutParams(clips=3, seed=1, every=1))
    assert len(held) == 4
    assert {c.sha256 for c in held}.isdisjoint({c.sha256 for c in rest})


def test_another_corpus_does_not_teach_the_bytes_of_a_held_out_clip(caplog):
    held_out = HeldOutParams(clips=3, seed=1, every=1)
    first = set_aside(CLIPS, held_out)[1][0]
    copy = replace(clip("mafw", 99), sha256=first.sha256, label=None)
    rest, held = set_aside([*CLIPS, copy], held_out)
    assert copy not in rest + held
    assert "1 training clips are left out" in caplog.text


def test_clips_of_the_same_sound_are_held_out_together_and_another_corpus_does_not_teach_it():
    """Clip i sounds like clip i + 10, and clip 90 + i of mafw too."""
    rng = np.random.default_rng(0)
    prints = []
    for _ in range(10):
        up = rng.integers(0, 2, 48 * 16)
        prints.append(np.packbits(np.concatenate([up, 1 - up])).tobytes().hex())
    own = [replace(c, sound_print=prints[i % 10]) for i, c in enumerate(CLIPS[:20])]
    copies = [replace(clip("mafw", 90 + i, label=None), sound_print=prints[i]) for i in range(10)]
    rest, held = set_aside([*own, *copies], HeldOutParams(clips=3, seed=1, every=1))
    assert len(held) == 4 and len({c.sound_print for c in held}) == 2
    assert {c.sound_print for c in held}.isdisjoint({c.sound_print for c in rest})
    assert len(rest) == 16 + 8
