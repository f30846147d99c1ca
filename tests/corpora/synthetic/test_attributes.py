import numpy as np
import pytest

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, FACE, VOICE, draw_latent, prototype
from r1omni.emotions import EMOTIONS


def test_without_noise_a_clip_shows_its_prototype():
    latent = draw_latent("angry", np.random.default_rng(0), noise=0.0, shortcut=0.0)
    assert latent.levels == prototype("angry")
    assert prototype("angry")["brows"] == -1


def test_all_prototypes_differ():
    assert len({tuple(prototype(e).values()) for e in EMOTIONS}) == len(EMOTIONS)


@pytest.mark.parametrize("emotion", ["surprise", "disgust", "contemptuous"])
def test_some_emotions_are_silent(emotion):
    assert not any(prototype(emotion)[name] for name in VOICE)


@pytest.mark.parametrize("emotion", ["fear", "anxious"])
def test_some_emotions_are_invisible(emotion):
    assert not any(prototype(emotion)[name] for name in FACE)


def test_the_share_of_changed_attributes_is_the_noise():
    rng = np.random.default_rng(0)
    drawn = [draw_latent("sad", rng, noise=0.2, shortcut=0.0).levels for _ in range(400)]
    changed = [levels[n] != prototype("sad")[n] for levels in drawn for n in ATTRIBUTES]
    assert np.mean(changed) == pytest.approx(0.2, abs=0.025)  # 4400 draws: SE 0.006


@pytest.mark.parametrize(("shortcut", "share"), [(0.0, 1 / 12), (0.5, 0.5 + 0.5 / 12), (1.0, 1.0)])
def test_scene_and_speaker_are_the_emotions_own_with_the_shortcuts_chance(shortcut, share):
    rng = np.random.default_rng(0)
    own = EMOTIONS.index("fear")
    drawn = [draw_latent("fear", rng, noise=0.0, shortcut=shortcut) for _ in range(600)]
    assert np.mean([latent.scene == own for latent in drawn]) == pytest.approx(share, abs=0.06)
    assert np.mean([latent.speaker == own for latent in drawn]) == pytest.approx(share, abs=0.06)
