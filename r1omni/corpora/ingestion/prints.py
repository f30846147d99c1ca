"""What a clip sounds and looks like in a few hundred bytes, by which content.py finds copies.

A sound print holds, for the first 2.5 s, how the balance between neighbouring frequency bands
changes over time: only the signs, as in Haitsma & Kalker (ISMIR 2002). Loudness, sampling rate and
an encoder's delay change it little. A picture print holds small grey pictures at fixed times.
All sums are of whole numbers that float64 holds exactly: prints are the same on every machine.
`S` samples, `K` segments, `B` bands.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, cast

import av
import numpy as np
import numpy.typing as npt

from r1omni.corpora.content import BANDS, CELLS, SEGMENTS

Wide = npt.NDArray[np.float64]  # whole numbers
Grey = npt.NDArray[np.uint8]

_TYPES: Final = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}  # of samples
_RATE: Final = 4000  # Hz, about, of the sound that is looked at
_RATES: Final = (_RATE, 400_000)  # of sounds that have a print
_TAPS: Final = 8  # of the low pass, for each sample that is dropped
_PASSED: Final = 0.9  # of half the rate
_HOP: Final = 0.032  # s between segments
_PIECE: Final = 0.192  # s that a segment's spectrum is taken from
_CHANGE: Final = 4  # segments between the two whose balance is compared
_HEARD: Final = (SEGMENTS + _CHANGE) * _HOP + _PIECE + 0.1  # s that a print is made of, and more
_EDGES: Final = (300.0, 1900.0)  # Hz: what telephones and every codec keep
_TONES: Final = 4  # frequencies in a band
_FLOOR: Final = 1000  # 30 dB below the loudest band; codecs drop what is below
_STEADY: Final = (5, 4)  # a change of less than 5 : 4 (1 dB) has no sign
_QUIET: Final = 33  # of 32,768: a sound that never exceeds it (-60 dB) is silence
_LEAST: Final = 200  # signs; a print of fewer could be like a stranger's by chance

_TIMES: Final = tuple(0.1 + 0.4 * i for i in range(8))  # s from the first picture
_SIDE: Final = round(CELLS**0.5)
_FINE: Final = 16 * _SIDE  # rows and columns that a small picture is made from, at least
_PLANAR: Final = {"gray", "nv12", "yuv410p", "yuv411p", "yuv420p", "yuv422p", "yuv444p",
                  "yuvj420p", "yuvj422p", "yuvj444p"}  # fmt: skip
_FLAT: Final = 2  # grey levels of standard deviation; pictures with less show nothing


class Sketch:
    """The prints of a clip whose decoded frames are shown to it in their order."""

    def __init__(self) -> None:
        self._sound: list[av.AudioFrame] = []
        self._heard = 0.0  # s
        self._pictures: list[Grey] = []
        self._last: av.VideoFrame | None = None
        self._start = 0.0  # s

    def hear(self, frame: av.AudioFrame) -> None:
        """Take a frame of sound; what comes after the first seconds does not count."""
        if self._heard < _HEARD and (not self._sound or _form(frame) == _form(self._sound[0])):
            self._sound.append(frame)
            self._heard += frame.samples / frame.sample_rate

    def see(self, frame: av.VideoFrame) -> None:
        """Take a frame of the picture."""
        if len(self._pictures) == len(_TIMES) or frame.time is None:
            return
        if self._last is None:
            self._start = frame.time
        else:
            self._add_frame(self._last, frame.time - self._start)
        self._last = frame

    def prints(self) -> tuple[str | None, str | None]:
        """Sound and picture print in hexadecimal; None where there is too little to go by."""
        if self._last is not None and self._last.time is not None:
            self._add_frame(self._last, self._last.time - self._start + 1e-6)
        known = self._sound and self._sound[0].format.name.removesuffix("p") in _TYPES
        sound = sound_print(_mono(self._sound), self._sound[0].sample_rate) if known else None
        return sound, picture_print(self._pictures)

    def _add_frame(self, frame: av.VideoFrame, until: float) -> None:
        """Keep `frame` for the times before `until` at which it is on the screen."""
        shown = sum(time < until for time in _TIMES[len(self._pictures) :])
        if shown:
            self._pictures += [_shrunk(_brightness(frame))] * shown


def sound_print(sound: Wide, rate: int) -> str | None:
    """The print of a mono sound (S,) of 16 bits: two bits for each of K x B signs, hexadecimal."""
    if not _RATES[0] <= rate <= _RATES[1]:
        return None
    several = rate // _RATE
    hop, length = (round(seconds * rate / several) for seconds in (_HOP, _PIECE))
    sound = _thinned(sound[: round(_HEARD * rate)], several)
    sound = sound[: (SEGMENTS + _CHANGE - 1) * hop + length]
    if len(sound) < _CHANGE * hop + length or np.abs(sound).max() <= _QUIET:
        return None
    pieces = np.lib.stride_tricks.sliding_window_view(sound, length)[::hop]
    waves = np.floor(pieces @ _waves(length, rate / several) / 2**10).astype(np.int64)
    power = (waves**2).reshape(len(pieces), BANDS + 1, 2 * _TONES).sum(axis=2)  # below 2^56
    power >>= max(0, int(power.max()).bit_length() - 30)  # products of two, times 5: below 2^63
    power = np.maximum(power, max(1, int(power.max()) // _FLOOR))
    before, after = power[:-_CHANGE], power[_CHANGE:]
    rise, fall = after[:, :-1] * before[:, 1:], after[:, 1:] * before[:, :-1]  # (K, B)
    most, least = _STEADY
    planes = np.stack([least * rise > most * fall, least * fall > most * rise])
    return np.packbits(planes).tobytes().hex() if planes.sum() >= _LEAST else None


def picture_print(pictures: Sequence[Grey]) -> str | None:
    """The print of small grey pictures, a byte a cell; None where they are all but one grey."""
    if not pictures:
        return None
    cells = np.stack(pictures).astype(np.int64)
    spread = cells.size * int((cells**2).sum()) - int(cells.sum()) ** 2
    return np.stack(pictures).tobytes().hex() if spread >= (_FLAT * cells.size) ** 2 else None


def _form(frame: av.AudioFrame) -> tuple[str, int, int]:
    return frame.format.name, frame.layout.nb_channels, frame.sample_rate


def _mono(frames: Sequence[av.AudioFrame]) -> Wide:
    """The frames' sound as whole numbers of 16 bits, the mean of its channels (S,)."""
    name, channels, _ = _form(frames[0])
    kind = _TYPES[name.removesuffix("p")]
    planes = channels if name.endswith("p") else 1  # packed samples take turns in one plane
    sound: Any = 0
    for parts in zip(
        *(cast(Sequence[Any], frame.planes)[:planes] for frame in frames), strict=True
    ):
        pieces = [
            np.frombuffer(part, kind, frame.samples * channels // planes)
            for part, frame in zip(parts, frames, strict=True)
        ]
        sound = sound + _sixteen_bits(np.concatenate(pieces))
    return np.asarray(np.floor(sound.reshape(-1, channels // planes).sum(axis=1) / channels))


def _sixteen_bits(samples: npt.NDArray[Any]) -> Wide:
    """Samples of any type as whole numbers from -2^15 to 2^15."""
    if samples.dtype.kind == "f":
        return np.rint(np.nan_to_num(np.clip(samples.astype(np.float64), -1, 1)) * 2**15)
    wide = samples.astype(np.float64)
    return (
        (wide - 128) * 2**8
        if samples.dtype == np.uint8
        else np.floor(wide / 2 ** (8 * samples.itemsize - 16))
    )


def _thinned(sound: Wide, several: int) -> Wide:
    """One sample of `several`, once frequencies that are too high for it are filtered out."""
    rows = sound[: len(sound) // several * several].reshape(-1, several)
    parts = rows @ _low_pass(several).T  # (rows, _TAPS): what each row adds to eight sums
    n = max(0, len(rows) - _TAPS + 1)
    sums = np.sum([parts[i : i + n, i] for i in range(_TAPS)], axis=0)
    return np.asarray(np.floor(sums / 2**12))


@lru_cache(maxsize=8)
def _low_pass(several: int) -> Wide:
    """A windowed sinc of whole numbers whose sum is about 2^12 (_TAPS, several)."""
    n = _TAPS * several
    place = (np.arange(n) - (n - 1) / 2) / several
    taps = np.sinc(_PASSED * place) * np.hanning(n)
    return np.asarray(np.rint(taps / taps.sum() * 2**12)).reshape(_TAPS, several)


@lru_cache(maxsize=8)
def _waves(length: int, rate: float) -> Wide:
    """Hann-windowed cosines and sines of whole numbers, band by band (length, B x 2 x tones)."""
    edges = np.geomspace(*_EDGES, (BANDS + 1) * _TONES + 1)
    phase = 2 * np.pi * np.outer(np.arange(length), np.sqrt(edges[1:] * edges[:-1])) / rate
    pairs = np.stack([np.cos(phase), np.sin(phase)], axis=2).reshape(length, -1)
    return np.asarray(np.rint(pairs * np.hanning(length)[:, None] * 2**9))


def _brightness(frame: av.VideoFrame) -> Grey:
    """The frame in grey (H, W)."""
    if frame.format.name not in _PLANAR:  # 8 bits, the brightness in a plane of its own
        return np.asarray(frame.to_ndarray(format="gray"))
    plane: Any = frame.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]


def _shrunk(picture: Grey) -> Grey:
    """The means of the picture's cells: (H, W) -> (_SIDE, _SIDE)."""
    down, across = (max(1, side // _FINE) for side in picture.shape)
    sampled = picture[::down, ::across].astype(np.float64)
    rows, columns = (_cells(side) for side in sampled.shape)
    counts = np.outer(rows.sum(axis=1), columns.sum(axis=1))
    return np.asarray(np.floor(rows @ sampled @ columns.T / counts), dtype=np.uint8)


@lru_cache(maxsize=64)
def _cells(side: int) -> Wide:
    """Which of `side` rows belong to which of _SIDE cells, each at least one: 0 or 1."""
    edges = np.arange(_SIDE + 1)[:, None] * side // _SIDE
    places = np.arange(side)
    ends = np.maximum(edges[1:], edges[:-1] + 1)
    return np.asarray((places >= edges[:-1]) & (places < ends), dtype=np.float64)
