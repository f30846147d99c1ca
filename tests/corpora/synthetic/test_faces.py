import numpy as np
import pytest
from linear_probe import held_out_accuracy

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, FACE, SCENES
from r1omni.corpora.synthetic.faces import draw_face, draw_identity

STILL = dict.fromkeys(ATTRIBUTES, 0)


def draw(levels, *, style="wild", scene=0, seed=0, person=0, n_frames=12):
    identity = draw_identity(np.random.default_rng(person))
    rng = np.random.default_rng(seed)
    return draw_face(levels, identity, scene, style, rng, n_frames=n_frames, size=64)


def test_the_same_numbers_give_the_same_face():
    assert np.array_equal(draw(STILL), draw(STILL))
    assert not np.array_equal(draw(STILL), draw(STILL, person=1))


@pytest.mark.parametrize("name", FACE)
@pytest.mark.parametrize("level", [-1, 1])
def test_a_level_changes_the_picture_and_voice_levels_do_not(name, level):
    apex = draw(STILL)[:, -1]
    assert np.abs(draw(STILL | {name: level})[:, -1] - apex).max() > 60
    assert np.array_equal(draw(STILL | {"pitch": level})[:, -1], apex)


def test_the_expression_rises_and_holds():
    moved = np.abs(draw(STILL | {"mouth": 1}) - draw(STILL)).mean((0, 2, 3))
    assert 0 < moved[0] < moved[4]
    assert moved[4:].std() < 0.15 * moved[4:].mean()


def test_a_studio_looks_the_same_whatever_the_scene():
    studio = [draw(STILL, style="studio", scene=scene) for scene in range(SCENES)]
    assert all(np.array_equal(studio[0], other) for other in studio)
    corners = [draw(STILL, scene=scene)[:, :, :8, :8] for scene in range(SCENES)]
    distances = [np.abs(a - b).mean() for i, a in enumerate(corners) for b in corners[:i]]
    assert min(distances) > 10


def test_least_squares_reads_every_attribute_from_the_mean_frame():
    rng = np.random.default_rng(0)
    pictures, drawn = [], []
    for i in range(600):
        levels = {name: int(rng.integers(-1, 2)) for name in ATTRIBUTES}
        style = "wild" if i % 2 else "studio"
        canvas = draw_face(
            levels, draw_identity(rng), int(rng.integers(SCENES)), style, rng, n_frames=2, size=48
        )
        noisy = canvas[:, 1] + rng.normal(0, 10, (3, 48, 48))
        pictures.append(noisy.reshape(3, 24, 2, 24, 2).mean((2, 4)).ravel())
        drawn.append([levels[name] for name in FACE])
    x, y = np.array(pictures, np.float64), np.array(drawn)
    found = {name: held_out_accuracy(x, y[:, i], 450, 100.0) for i, name in enumerate(FACE)}
    assert min(found.values()) > 0.65, found  # by chance 0.33
