"""Clips whose picture or sound is missing: darkness, silence, or nothing in their place."""

from typing import Final

import torch

from r1omni.claims import Side
from r1omni.media import TowerInputs
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features

AUDIO: Final = "audio"  # how names of the sound's features begin; all others are the picture's


@torch.no_grad()
def blank_features(backbone: Backbone) -> Features:
    """The towers' outputs for black frames and no sound.

    Empty for a backbone whose prompts leave out what is missing.
    """
    preparation = backbone.preparation
    blank = TowerInputs(preparation.without_picture(), preparation.waveform_to_mel(None), False)
    return backbone.encode([blank])[0]


def blanked(features: Features, side: Side | None, blank: Features) -> Features:
    """The features with those of a missing `side` (None: nothing is missing) taken from `blank`."""
    if side is None:
        return features
    other: Side = "face" if side == "voice" else "voice"
    return {**of_side(features, other), **of_side(blank, side)}


def of_side(features: Features, side: Side) -> Features:
    """Those of the features that are of this side."""
    return {name: tensor for name, tensor in features.items() if side_of(name) == side}


def side_of(name: str) -> Side:
    """Which side a feature of this name is of: sound is a voice, a picture is a face."""
    return "voice" if name.startswith(AUDIO) else "face"
