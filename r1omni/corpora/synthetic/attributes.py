"""What a synthetic face and voice can look and sound like, and how each emotion shows.

Eleven attributes of three levels, -1, 0 and +1. An emotion is a prototype: the level that each
attribute takes when the emotion is shown. A clip draws every attribute from its emotion's
prototype, or with chance `noise` one of the two other levels, so no clip is certain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

LEVELS: Final[tuple[int, ...]] = (-1, 0, 1)

# Attribute -> the words for levels -1, 0, +1. Rationales and captions are made of these.
FACE: Final[dict[str, tuple[str, str, str]]] = {
    "brows": ("lowered", "relaxed", "raised"),
    "eyes": ("narrowed", "open", "wide"),
    "mouth": ("frowning", "straight", "smiling"),
    "jaw": ("clenched", "loose", "dropped"),
    "head": ("bowed", "upright", "tilted"),
}
VOICE: Final[dict[str, tuple[str, str, str]]] = {
    "pitch": ("low", "medium", "high"),
    "melody": ("flat", "moderate", "lively"),
    "loudness": ("soft", "normal", "loud"),
    "rate": ("slow", "even", "fast"),
    "tremor": ("steady", "natural", "trembling"),
    "breath": ("harsh", "clear", "breathy"),
}
ATTRIBUTES: Final[dict[str, tuple[str, str, str]]] = {**FACE, **VOICE}

SCENES: Final[int] = 12  # backgrounds; scene i is emotion i's own where shortcuts apply
SPEAKERS: Final[int] = 12  # voices (formants); speaker i is emotion i's own likewise
UNSEEN: Final = -1  # in place of a scene: studio clips show none

_N5: Final = (0, 0, 0, 0, 0)
_N6: Final = (0, 0, 0, 0, 0, 0)

# Face (brows eyes mouth jaw head), voice (pitch melody loudness rate tremor breath).
# surprise, disgust and contemptuous show in the face only; fear and anxious in the voice only.
_PROTOTYPES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "neutral": (_N5, _N6),
    "happy": ((0, -1, 1, 1, 1), (1, 1, 1, 1, 0, 0)),
    "sad": ((1, -1, -1, 0, -1), (-1, -1, -1, -1, 0, 1)),
    "angry": ((-1, 1, -1, -1, 0), (0, 1, 1, 1, -1, -1)),
    "surprise": ((1, 1, 0, 1, 0), _N6),
    "fear": (_N5, (1, 0, -1, 1, 1, 1)),
    "disgust": ((-1, -1, -1, 0, 1), _N6),
    "contemptuous": ((1, -1, 1, -1, 0), _N6),
    "anxious": (_N5, (1, -1, 0, 1, 1, -1)),
    "helpless": ((1, 0, -1, 1, -1), (0, -1, -1, 0, 1, 1)),
    "disappointed": ((-1, 0, -1, -1, -1), (-1, -1, 0, -1, -1, 0)),
    "calm": ((0, 0, 0, -1, 0), (-1, 0, -1, -1, -1, 0)),
}


@dataclass(frozen=True)
class Latent:
    """What one clip truly shows: the side file's row, which only evaluation may read."""

    emotion: str
    levels: Mapping[str, int]
    scene: int
    speaker: int


def prototype(emotion: str) -> dict[str, int]:
    """The level of every attribute when `emotion` is shown without noise."""
    face, voice = _PROTOTYPES[emotion]
    return dict(zip(ATTRIBUTES, (*face, *voice), strict=True))


def draw_latent(emotion: str, rng: np.random.Generator, *, noise: float, shortcut: float) -> Latent:
    """A clip's attributes, scene and speaker for `emotion`.

    With chance `shortcut` scene and speaker are the emotion's own (together), else uniform.
    """
    levels = {
        name: level if rng.random() >= noise else int(rng.choice([v for v in LEVELS if v != level]))
        for name, level in prototype(emotion).items()
    }
    own = list(_PROTOTYPES).index(emotion)
    confounded = rng.random() < shortcut
    scene = own if confounded else int(rng.integers(SCENES))
    speaker = own if confounded else int(rng.integers(SPEAKERS))
    return Latent(emotion, levels, scene, speaker)


def word(attribute: str, level: int) -> str:
    """The word for an attribute's level: word("brows", 1) is "raised"."""
    return ATTRIBUTES[attribute][level + 1]
