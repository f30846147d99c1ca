"""A speaking voice drawn from attribute levels, by source and filter (Fant 1960).

The source is a band-limited wave table read at the pitch's phase, plus breath; two vowels of the
speaker's own vocal tract filter it, one syllable after the other; an envelope makes syllables and
tremor. S samples, in -1…1; pitch in Hz, time in seconds.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from r1omni.corpora.synthetic.attributes import SPEAKERS

Floats = npt.NDArray[np.float32]

# Level -1, 0, +1 of each attribute.
_PITCH: Final = (100.0, 185.0, 345.0)  # Hz, the middle of the melody
_MELODY: Final = (0.1, 3.8, 10.0)  # semitones up and down
_LOUDNESS: Final = (0.03, 0.09, 0.25)  # root mean square while speaking
_RATE: Final = (1.4, 2.9, 6.2)  # syllables a second
_TREMOR_DEPTH: Final = (0.0, 0.25, 0.9)  # of the amplitude
_TREMOR_BEND: Final = (0.0, 0.2, 1.5)  # semitones
_TREMOR_GAP: Final = (0.28, 0.04, 0.04)  # of the amplitude left between syllables
_TREMOR_HZ: Final = 10.5
_TILT: Final = (0.45, 1.15, 1.8)  # a harmonic's amplitude is its number to the power of minus this
_BREATH: Final = (0.0, 0.02, 0.85)  # breath's share of the amplitude

SAMPLING_RATE: Final = 16000  # Hz
_TABLE: Final = 1024  # entries of the wave table


def draw_voice(
    levels: Mapping[str, int],
    speaker: int,
    rng: np.random.Generator,
    *,
    n_samples: int,
    noise: float,
) -> Floats:
    """A voice that shows `levels`, (S,), over background noise of that root mean square.

    Nothing is normalised afterwards: a soft voice is soft.
    """
    time = np.arange(n_samples, dtype=np.float32) / np.float32(SAMPLING_RATE)
    tremor = np.sin(_cycle(time, _TREMOR_HZ * rng.uniform(0.92, 1.08), rng))
    phase = _phase(levels, speaker, rng, time, tremor)
    harsh = levels["breath"] < 0
    source = _table(_TILT[levels["breath"] + 1], phase[-1] / time[-1])[
        ((phase % 1.0) * _TABLE).astype(np.int64)
    ]
    if harsh:  # every other pulse is weak: a creak an octave below
        source *= 1.0 + 0.65 * np.cos(np.pi * np.floor(phase))
    breath = _BREATH[levels["breath"] + 1]
    air = rng.standard_normal(n_samples, np.float32)
    voice, syllables = _speak(source, air * breath, speaker, levels, rng, time)
    depth = _TREMOR_DEPTH[levels["tremor"] + 1]
    voice *= syllables * (1.0 - depth * 0.5 * (1.0 + tremor))
    loudness = _LOUDNESS[levels["loudness"] + 1] * rng.uniform(0.88, 1.14)
    voice *= loudness / np.sqrt(np.mean(voice**2) / np.mean(syllables))
    room = rng.standard_normal(n_samples, np.float32) * noise * rng.uniform(0.6, 1.2)
    return np.tanh(voice + room).astype(np.float32)


def _phase(
    levels: Mapping[str, int],
    speaker: int,
    rng: np.random.Generator,
    time: Floats,
    tremor: Floats,
) -> npt.NDArray[np.float64]:
    """Cycles of the voice since the start, (S,): melody, tremor's bend, and jitter."""
    middle = _PITCH[levels["pitch"] + 1] * _tract(speaker)[1] * rng.uniform(0.95, 1.05)
    swing = np.sin(_cycle(time, rng.uniform(1.1, 1.7), rng))
    semitones = _MELODY[levels["melody"] + 1] * rng.uniform(0.85, 1.15) * swing
    semitones += _TREMOR_BEND[levels["tremor"] + 1] * tremor
    wobble = 0.9 if levels["breath"] < 0 else 0.08
    knots = rng.normal(0.0, wobble, 2 + int(60 * time[-1]))
    semitones += np.interp(time, np.linspace(0, time[-1], len(knots)), knots)
    rate = np.exp2(semitones / 12.0) * (middle * float(time[1]))
    cycles: npt.NDArray[np.float64] = np.cumsum(rate, dtype=np.float64)
    return cycles


def _speak(
    source: Floats,
    air: Floats,
    speaker: int,
    levels: Mapping[str, int],
    rng: np.random.Generator,
    time: Floats,
) -> tuple[Floats, Floats]:
    """The filtered voice and its syllables' envelope, each (S,); vowels alternate."""
    beat = time * _RATE[levels["rate"] + 1] * rng.uniform(0.92, 1.08) + rng.uniform(0.0, 0.5)
    beat += 0.06 * np.sin(_cycle(time, 0.9, rng))
    bump = np.sin(np.pi * (beat % 1.0))
    stress = rng.uniform(0.75, 1.0, int(beat[-1]) + 1).astype(np.float32)
    gap = _TREMOR_GAP[levels["tremor"] + 1]
    syllables = (gap + (1.0 - gap) * bump**1.5) * stress[beat.astype(np.int64)]
    grid = 1 << (len(time) - 1).bit_length()
    first, second, hiss = _filters(speaker, grid)
    spectrum = np.fft.rfft(source, grid) / np.sqrt(np.mean(source**2))
    spectrum += np.fft.rfft(air, grid) * hiss
    ah = np.fft.irfft(spectrum * first, grid)[: len(time)]
    ee = np.fft.irfft(spectrum * second, grid)[: len(time)]
    odd = 0.5 - 0.5 * np.cos(np.pi * beat)
    voice = ah + odd * (ee - ah)
    return voice.astype(np.float32), syllables.astype(np.float32)


def _cycle(time: Floats, hz: float, rng: np.random.Generator) -> Floats:
    """The angle of a slow oscillation that starts anywhere."""
    angle: Floats = time * np.float32(2 * np.pi * hz) + np.float32(rng.uniform(0, 2 * np.pi))
    return angle


def _table(tilt: float, hz: float) -> Floats:
    """One period of a wave whose harmonics fall by `tilt` and stay below the Nyquist limit."""
    count = max(1, min(_TABLE // 2 - 1, int(0.4 * SAMPLING_RATE / hz)))
    harmonic = np.arange(1, count + 1)
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
    spectrum[1 : count + 1] = harmonic**-tilt * np.exp(1j * 0.6 * harmonic**1.5)
    return np.fft.irfft(spectrum, _TABLE).astype(np.float32)


def _tract(speaker: int) -> tuple[float, float, float, float]:
    """A speaker's formant scale, pitch factor and two rings (Hz)."""
    scale = 0.88 + 0.24 * (speaker * 5 % SPEAKERS) / (SPEAKERS - 1)
    factor = 0.95 + 0.1 * (speaker * 7 % SPEAKERS) / (SPEAKERS - 1)
    return scale, factor, 2300.0 + 450.0 * (speaker % 4), 4500.0 + 1000.0 * (speaker // 4)


@cache
def _filters(speaker: int, grid: int) -> tuple[Floats, Floats, Floats]:
    """On a Fourier grid: the speaker's open and closed vowel, and the brightness of air."""
    hz = np.fft.rfftfreq(grid, 1 / SAMPLING_RATE)
    scale, _, *rings = _tract(speaker)

    def resonate(*peaks: tuple[float, float]) -> Floats:
        gain = sum(1.0 / (1.0 + ((hz - peak) / width) ** 2) for peak, width in peaks)
        return np.asarray(gain + 0.03, np.float32)

    murmur = (300 * scale, 220.0)
    ah = resonate(murmur, (720 * scale, 130.0), (1240 * scale, 140.0))
    ee = resonate(murmur, (430 * scale, 130.0), (1900 * scale, 170.0))
    ring = 6.0 * resonate((rings[0], 130.0), (rings[1], 200.0))
    return ah + ring, ee + ring, np.clip(hz / 2000.0, 0.0, 1.2).astype(np.float32)
