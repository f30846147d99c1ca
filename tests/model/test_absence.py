"""Clips without picture or sound: blank features take their place, or nothing does."""

import pytest
import torch

from r1omni.model.absence import blanked, of_side

CLIP = {
    "video": torch.ones(8, 2),
    "grid": torch.tensor([2, 4, 4]),
    "seconds": torch.tensor([0.5]),
    "audio": torch.ones(3, 2),
}


def test_a_backbone_that_leaves_out_what_is_missing_gets_the_rest_of_the_clip():
    assert blanked(CLIP, None, {}) is CLIP
    assert blanked(CLIP, "face", {}) == {"audio": CLIP["audio"]}
    deaf = blanked(CLIP, "voice", {})
    assert deaf.keys() == {"video", "grid", "seconds"}
    assert all(deaf[name] is CLIP[name] for name in deaf)
    assert blanked({"audio": torch.zeros(5, 2)}, "voice", {}) == {}


def test_what_places_the_picture_belongs_to_it():
    assert of_side(CLIP, "face").keys() == {"video", "grid", "seconds"}
    assert of_side(CLIP, "voice").keys() == {"audio"}


@pytest.mark.parametrize(("side", "hidden"), [("face", "vision"), ("voice", "audio")])
def test_blank_features_take_the_place_of_what_is_hidden(side, hidden):
    clip = {"vision": torch.ones(1), "audio": torch.ones(1)}
    blank = {"vision": torch.zeros(1), "audio": torch.zeros(1)}
    found = blanked(clip, side, blank)
    assert found.keys() == clip.keys()
    assert {name for name in clip if found[name] is blank[name]} == {hidden}
