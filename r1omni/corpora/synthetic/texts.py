"""What a clip shows and sounds like, in words, and the way back from words to levels.

The level words of attributes.py are all different, so a word names its attribute and level, and
what a model claims can be compared with what a clip truly shows.
"""

import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, FACE, LEVELS, VOICE, word

STILL_FACE: Final = "face is at rest"
PLAIN_VOICE: Final = "voice is plain"

_CLAIMS: Final[dict[str, tuple[str, int]]] = {
    word(name, level): (name, level) for name in ATTRIBUTES for level in LEVELS
}
_WORD: Final = re.compile(r"[a-z]+")


def rationale(levels: Mapping[str, int], rng: np.random.Generator) -> str:
    """One sentence with every attribute that is not at its middle level: face, then voice.

    It names no emotion, and holds nothing that `levels` does not say.
    """
    face = {name: levels[name] for name in FACE if levels[name]}
    voice = {name: levels[name] for name in VOICE if levels[name]}
    return _sentence(face, voice, int(rng.integers(3)))


def caption(levels: Mapping[str, int], rng: np.random.Generator) -> str:
    """One sentence with every attribute, middle levels too."""
    face, voice = ({name: levels[name] for name in part} for part in (FACE, VOICE))
    return _sentence(face, voice, int(rng.integers(3)))


def statements(text: str) -> dict[str, int]:
    """The level that `text` claims for each attribute it speaks of. Any string will do.

    `STILL_FACE` claims the middle level for all of the face, `PLAIN_VOICE` for all of the voice.
    An attribute that is given two different levels is claimed nothing about. Negation is not
    understood: rationales have none.
    """
    folded = " ".join(text.casefold().split())
    claims = [_CLAIMS[w] for w in _WORD.findall(folded) if w in _CLAIMS]
    claims += [(name, 0) for name in FACE if STILL_FACE in folded]
    claims += [(name, 0) for name in VOICE if PLAIN_VOICE in folded]
    found: dict[str, set[int]] = {}
    for name, level in claims:
        found.setdefault(name, set()).add(level)
    return {name: seen.pop() for name, seen in found.items() if len(seen) == 1}


def _sentence(face: Mapping[str, int], voice: Mapping[str, int], template: int) -> str:
    features = [(name, word(name, level)) for name, level in face.items()]
    sounds = [word(name, level) for name, level in voice.items()]
    if template == 0:  # The brows are raised, head bowed; the voice is low and soft.
        shown = _list([f"{name} {_be(name, i)}{w}" for i, (name, w) in enumerate(features)], ", ")
        shown, heard = f"The {shown}" if shown else "", f"the voice is {_list(sounds)}"
    elif template == 1:  # Raised brows and bowed head; a low and soft voice.
        shown = _list([f"{w} {name}" for name, w in features]).capitalize()
        heard = f"{_article(sounds)} {_list(sounds)} voice"
    else:  # I see raised brows and bowed head; I hear a low and soft voice.
        shown = f"I see {_list([f'{w} {name}' for name, w in features])}"
        heard = f"I hear {_article(sounds)} {_list(sounds)} voice"
    shown = shown if features else f"The {STILL_FACE}"
    heard = heard if sounds else f"the {PLAIN_VOICE}"
    return f"{shown}; {heard}."


def _be(name: str, position: int) -> str:
    """The verb, which the first of a list bears for all."""
    if position:
        return ""
    return "are " if name in ("brows", "eyes") else "is "


def _article(sounds: list[str]) -> str:
    return "an" if sounds and sounds[0][0] in "aeiou" else "a"


def _list(words: list[str], last: str = " and ") -> str:
    """a, b and c."""
    return last.join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
