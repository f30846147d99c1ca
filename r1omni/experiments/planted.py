"""Answerers whose causes are planted: what decides their answers is known by construction.

The tests of the audit and the truth laboratory (laboratory.py) ask them in a model's place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from r1omni.claims import ABSENT, ATTRIBUTES, SIDE_OF, Side
from r1omni.claims import levels as claimed
from r1omni.completions import render
from r1omni.corpora.synthetic.attributes import word
from r1omni.evaluation.audit.answerer import Media, Token
from r1omni.evaluation.audit.choosing import form_of
from r1omni.prompts import AnswerMode

Levels = Mapping[str, int]  # attribute -> level
Reads = Literal["nothing", "claims", "half", "true claims", "form", "opening"]
Says = Literal["what is there", "the absent, too", "a stereotype", "a voice by the face"]
BOTH: Final[frozenset[Side]] = frozenset({"face", "voice"})
SURE: Final = 0.98  # the probability of the answer; the other labels share the rest
FACE_CLAIMS, VOICE_CLAIMS = 3, 2  # how many claims tell forms apart


@dataclass(frozen=True)
class World:
    """What each clip shows and sounds like, and which label a text speaks for.

    `stereotypes`: for every label each attribute's commonest level.
    """

    levels: Mapping[str, Levels]
    read: Callable[[str], str]
    stereotypes: Mapping[str, Levels]

    @property
    def labels(self) -> list[str]:
        return sorted(self.stereotypes)

    def recognise(self, levels: Levels) -> str:
        """The label whose stereotype shares most levels, the first of equals."""

        def shared(label: str) -> int:
            usual = self.stereotypes[label]
            return sum(usual.get(name) == level for name, level in levels.items())

        return max(self.labels, key=shared)

    def given(self, media: Media, sides: frozenset[Side] = BOTH) -> dict[str, int]:
        """The levels of these sides that the media hold."""
        found: dict[str, int] = {}
        for side, clip in (("face", media.video), ("voice", media.audio)):
            if clip is not None and side in sides:
                known = self.levels[clip]
                found |= {n: known[n] for n in ATTRIBUTES[side] if n in known}
        return found


@dataclass(frozen=True)
class Planted:
    """Answers by a planted cause, in a model's place.

    `senses`: the sides by which it recognises the emotion. `reads`: what its answer takes from the
    rationale. claims: it reads them; half: for every second clip; true claims: only where all of
    them are so; form: the number of claims and the opening name the answer; opening: with another
    opening than its own it answers something else. `says`: what the rationale holds. `startled`:
    without a sound it always gives the last label.
    """

    world: World
    senses: frozenset[Side] = BOTH
    reads: Reads = "nothing"
    says: Says = "what is there"
    startled: bool = False
    mode: AnswerMode = "reasoned"

    def complete(self, media: Sequence[Media]) -> list[str]:
        """The rationale and the answer to each of B media."""
        texts = [self.rationale(pair) for pair in media]
        return [
            render(text, self.answer(pair, text)) for pair, text in zip(media, texts, strict=True)
        ]

    def sample(self, media: Sequence[Media], n: int) -> list[list[str]]:
        """The same completion n times."""
        return [[text] * n for text in self.complete(media)]

    def label_logprobs(
        self,
        media: Sequence[Media],
        rationales: Sequence[Sequence[str | None]],
        labels: Sequence[str],
    ) -> NDArray[np.float64]:
        """SURE of its answer behind each rationale: (B, G, L)."""
        rest = (1 - SURE) / (len(labels) - 1)
        rows = np.full((len(media), len(rationales[0]), len(labels)), np.log(rest))
        for b, pair in enumerate(media):
            for g, text in enumerate(rationales[b]):
                if text is None:
                    rows[b, g] = -np.log(len(labels))
                else:
                    rows[b, g, labels.index(self.answer(pair, text))] = np.log(SURE)
        return rows

    def token_logprobs(
        self, media: Sequence[Media], completions: Sequence[str]
    ) -> list[list[Token]]:
        """One token a completion, of probability 0.5."""
        return [[Token(0, len(text), float(np.log(0.5)))] for text in completions]

    def answer(self, media: Media, rationale: str) -> str:
        """The label, by the planted cause."""
        labels = self.world.labels
        if self.startled and media.audio is None:
            return labels[-1]
        if self._believes(media, rationale):
            return self.world.read(rationale)
        if self.reads == "form":
            return labels[_form_code(rationale) % len(labels)]
        own = self.world.recognise(self.world.given(media, self.senses))
        if self.reads == "opening" and _says_i(rationale) != _prefers_i(media):
            return labels[labels.index(own) - 1]
        return own

    def rationale(self, media: Media) -> str:
        """What it writes to the media."""
        levels: Levels = self.world.given(media)
        own = self.world.recognise(levels)
        if self.reads == "form":
            return _in_form(levels, self.world.labels.index(own))
        if self.says == "a stereotype":
            levels = self.world.stereotypes[own]
        elif self.says == "the absent, too":
            levels = {**self.world.stereotypes[own], **levels}
        elif self.says == "a voice by the face":
            face = self.world.given(media, frozenset({"face"}))
            usual = self.world.stereotypes[self.world.recognise(face)]
            levels = face | {n: level for n, level in usual.items() if SIDE_OF[n] == "voice"}
        return describe(levels, i_see=self.reads == "opening" and _prefers_i(media))

    def _believes(self, media: Media, rationale: str) -> bool:
        """Whether it answers by the rationale's claims."""
        if self.reads == "half":
            return crc32(str(media.video or media.audio).encode()) % 2 == 1
        if self.reads == "true claims":
            given = self.world.given(media)
            return all(given.get(name) == level for name, level in claimed(rationale).items())
        return self.reads == "claims"


def describe(levels: Levels, i_see: bool = False, every: bool = False) -> str:
    """A rationale of these levels, or that nothing is seen, or heard, for a side without any.

    Middle levels are left out, as in our corpora, unless a side has no other or `every` is set.
    `i_see`: the other of two forms.
    """
    parts = []
    for side, names in ATTRIBUTES.items():
        known = {name: levels[name] for name in names if name in levels}
        told = {n: level for n, level in known.items() if level or every} or known
        words = [(name, word(name, level)) for name, level in told.items()]
        if not words:
            parts.append(ABSENT[side])
        elif side == "face":
            are = "are" if words[0][0] in ("brows", "eyes") else "is"
            first = f"{words[0][0]} {are} {words[0][1]}"
            rest = [f"{name} {said}" for name, said in words[1:]]
            seen = ", ".join(f"{said} {name}" for name, said in words)
            parts.append(f"I see {seen}" if i_see else f"The {', '.join([first, *rest])}")
        else:
            heard = ", ".join(said for _, said in words)
            parts.append(f"I hear a {heard} voice" if i_see else f"the voice is {heard}")
    return f"{'; '.join(parts)}."


def _says_i(rationale: str) -> bool:
    return form_of(rationale)[0].startswith("i")


def _prefers_i(media: Media) -> bool:
    return crc32(repr(media).encode()) % 2 == 1


def _form_code(rationale: str) -> int:
    """A number below 12 for how a rationale is written, whatever it says."""
    _, face, voice = form_of(rationale)
    code = (face % FACE_CLAIMS) * VOICE_CLAIMS + voice % VOICE_CLAIMS
    return code * 2 + int(_says_i(rationale))


def _in_form(levels: Levels, code: int) -> str:
    """A rationale of as many of these levels, and with such an opening, that its form has the code.

    A side without levels has no claims, whatever the code.
    """
    rest, i_see = divmod(code, 2)
    n_face, n_voice = divmod(rest, VOICE_CLAIMS)
    sides = (("face", n_face or FACE_CLAIMS), ("voice", n_voice or VOICE_CLAIMS))
    told = [n for side, count in sides for n in [n for n in levels if SIDE_OF[n] == side][:count]]
    return describe({name: levels[name] for name in told}, bool(i_see), every=True)
