"""Clips whose picture or sound is missing: what the towers make of darkness and of silence."""

from typing import Final

import torch

from r1omni.claims import Side
from r1omni.media import TowerInputs
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features

AUDIO: Final = "audio"  # how names of the sound's features begin; all others are the picture's


@torch.no_grad()
def blank_features(backbone: Backbone) -> Features:
    """The towers' outputs for black frames and no sound."""
    preparation = backbone.preparation
    blank = TowerInputs(preparation.without_picture(), preparation.waveform_to_mel(None), False)
    return backbone.encode([blank])[0]


def blanked(features: Features, side: Side | None, blank: Features) -> Features:
    """The features with those of a missing `side` (None: nothing is missing) taken from `blank`."""
    if side is None:
        return features
    return {
        name: blank[name] if side == side_of(name) else tensor for name, tensor in features.items()
    }


def side_of(name: str) -> Side:
    """Which side a feature of this name is of: sound is a voice, a picture is a face."""
    return "voice" if name.startswith(AUDIO) else "face"
