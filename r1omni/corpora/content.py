"""Which clips are copies of each other: the same bytes, or the same sound encoded otherwise.

A print (prints.py) is made when a clip is ingested. Two clips are copies if their sound prints are
alike, or if their sound prints are roughly and their pictures closely alike.

Measured on the 5,287 rendered clips that have sound prints (14 million pairs, 1.4 to 2 s) and on
40 of them encoded again. Strangers: at most 0.77 alike in sound. The least likeness of 40 copies:
PCM 0.93, MP3 of 64 kbit/s 0.88, AAC of 128 kbit/s 0.83, of 64 kbit/s 0.74, of 32 kbit/s 0.47.
Of strangers alike by 0.5 or more in sound, pictures are at most 0.95 alike.
Not measured: real recordings. Not found: a copy that was cut at its start, other sound under the
same pictures, and copies of clips whose sound is silent, steady or shorter than about a second.

`N` clips, `K` segments, `B` bands.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Signs = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]

SEGMENTS: Final = 72  # of a sound print, at most: 2.5 s
BANDS: Final = 16
CELLS: Final = 64  # of a grey picture in a picture print
SAME_SOUND: Final = 0.82  # between 0.77 (strangers) and 0.83 (AAC of 128 kbit/s)
SAME_BOTH: Final = (0.55, 0.98)  # likeness of sound and of pictures
_DELAYS: Final = range(-2, 3)  # segments by which an encoder may shift the sound: 64 ms
_BLOCK: Final = 1024  # clips compared with all others at once


class Printed(Protocol):
    """What clips are compared by."""

    @property
    def sha256(self) -> str: ...
    @property
    def sound_print(self) -> str | None: ...
    @property
    def picture_print(self) -> str | None: ...


def group_by_content(clips: Sequence[Printed], same_sound: float = SAME_SOUND) -> list[int]:
    """A number for each clip: copies, and copies of copies, have the same one.

    It is the place of the first clip of the group. Clips whose sounds are alike by `same_sound` are
    copies. Every pair is compared: 5,311 clips took 6 s, and the time grows with the square.
    """
    groups = list(range(len(clips)))
    first_of: dict[str, int] = {}
    for i, clip in enumerate(clips):
        if clip.sha256:
            groups[i] = first_of.setdefault(clip.sha256, i)
    firsts = list(first_of.values())  # the same bytes have the same prints
    for one, other in _copies([clips[i] for i in firsts], same_sound):
        first, second = sorted((_find(groups, firsts[one]), _find(groups, firsts[other])))
        groups[second] = first
    return [_find(groups, i) for i in range(len(clips))]


def likeness(one: Printed, other: Printed) -> tuple[float, float]:
    """How alike two clips are in sound and in pictures: 1.0 for the same, 0.0 without prints."""
    sound = 0.0
    if one.sound_print and other.sound_print:
        signs = _signs(one.sound_print)[None], _signs(other.sound_print)[None]
        sound = float(_sound_likeness(*signs)[0, 0])
    return sound, _picture_likeness(one.picture_print, other.picture_print)


def _find(groups: list[int], i: int) -> int:
    while groups[i] != i:
        groups[i] = groups[groups[i]]
        i = groups[i]
    return i


def _copies(clips: Sequence[Printed], same_sound: float) -> Iterator[tuple[int, int]]:
    """The pairs of clips that are copies of each other by their prints."""
    heard = [i for i, clip in enumerate(clips) if clip.sound_print]
    if not heard:
        return
    signs = np.stack([_signs(clips[i].sound_print or "") for i in heard])
    for start in range(0, len(heard), _BLOCK):
        sound = _sound_likeness(signs[start : start + _BLOCK], signs[start:])
        for row, column in np.argwhere(sound >= min(same_sound, SAME_BOTH[0])):
            if row >= column:  # the pair's other order, or the clip itself
                continue
            one, other = heard[start + row], heard[start + column]
            prints = clips[one].picture_print, clips[other].picture_print
            if sound[row, column] >= same_sound or (
                sound[row, column] >= SAME_BOTH[0] and _picture_likeness(*prints) >= SAME_BOTH[1]
            ):
                yield one, other


def _sound_likeness(one: Signs, other: Signs) -> Floats:
    """Cosines of the prints (N, K, B) and (M, K, B), each at the best delay -> (N, M).

    Sums of whole numbers below 2^24 are exact in float32, so that every machine finds the same.
    """
    a, b = one.astype(np.float32), other.astype(np.float32)
    best: Floats = np.zeros((len(a), len(b)), dtype=np.float32)
    for delay in _DELAYS:
        late, early = max(delay, 0), max(-delay, 0)
        shifted = a[:, late : SEGMENTS - early].reshape(len(a), -1)
        against = b[:, early : SEGMENTS - late].reshape(len(b), -1)
        np.maximum(best, shifted @ against.T, out=best)
    counts = [np.count_nonzero(signs, axis=(1, 2)).astype(np.float32) for signs in (one, other)]
    best /= np.sqrt(np.outer(*counts))
    return best


def _picture_likeness(one: str | None, other: str | None) -> float:
    """The correlation of two picture prints; 0.0 where their numbers of pictures differ by two."""
    if not one or not other:
        return 0.0
    n = min(len(one), len(other))
    if max(len(one), len(other)) - n > 2 * CELLS:  # two hexadecimal digits a cell
        return 0.0
    x, y = (np.frombuffer(bytes.fromhex(t[:n]), np.uint8).astype(np.int64) for t in (one, other))
    x, y = len(x) * x - x.sum(), len(y) * y - y.sum()
    norm = np.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / float(norm) if norm else 0.0


def _signs(text: str) -> Signs:
    """A sound print as -1, 0 and 1 (SEGMENTS, B), with zeros after the end of the sound."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8)).astype(np.int8)
    up, down = bits.reshape(2, -1, BANDS)
    whole = np.zeros((SEGMENTS, BANDS), dtype=np.int8)
    whole[: len(up)] = up - down
    return whole
