"""Acoustic measures on tones whose pitch, level and modulation are known."""

import numpy as np
import pytest

from r1omni.judges.acoustics import MEASURES, Tracks, measures

RATE = 16000


def tone(hz: float, *, seconds: float = 2.0, amplitude: float = 0.1, harmonics: int = 6):
    """A voice-like tone: harmonics that fall by 6 dB an octave, (S,)."""
    time = np.arange(round(seconds * RATE)) / RATE
    waves = [np.sin(2 * np.pi * hz * k * time) / k for k in range(1, harmonics + 1)]
    wave = np.sum(waves, axis=0)
    return (amplitude * wave / np.abs(wave).max()).astype(np.float32)


def modulated(wave, hz: float, depth: float):
    time = np.arange(len(wave)) / RATE
    return wave * (1 - depth * 0.5 * (1 + np.sin(2 * np.pi * hz * time))).astype(np.float32)


@pytest.mark.parametrize("hz", [100.0, 150.0, 220.0, 440.0])
def test_the_pitch_of_a_tone_is_its_frequency(hz):
    semitones = measures(tone(hz))["pitch"]
    assert 100.0 * 2 ** (semitones / 12) == pytest.approx(hz, rel=0.01)


def test_the_level_of_a_sine_is_3_db_below_its_peak():
    time = np.arange(2 * RATE) / RATE
    found = measures(0.1 * np.sin(2 * np.pi * 200 * time))
    assert found["level"] == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.01)


def test_twice_the_amplitude_is_6_db_and_nothing_but_level_changes():
    soft, loud = measures(tone(200, amplitude=0.1)), measures(tone(200, amplitude=0.2))
    assert loud["level"] - soft["level"] == pytest.approx(6.02, abs=0.01)
    unmoved = [name for name in MEASURES if not name.startswith("level")]
    assert [loud[n] for n in unmoved] == pytest.approx([soft[n] for n in unmoved], abs=1e-3)


@pytest.mark.parametrize("hz", [6.0, 8.0, 10.0])
def test_a_tremolo_of_a_tremors_frequency_deepens_the_tremor(hz):
    """Its amplitude is (1 - d/2) (1 - m sin), m = (d/2) / (1 - d/2): a power of m^2 / 2."""
    for depth, m in ((0.4, 0.25), (0.8, 2 / 3)):
        found = measures(modulated(tone(200), hz, depth))["tremor_depth"]
        assert found == pytest.approx(np.log10(m**2 / 2 + 1e-4), abs=0.05)
    assert measures(tone(200))["tremor_depth"] == pytest.approx(-4, abs=0.05)


def test_a_long_clip_is_heard_to_its_end():
    """The tremor of the last of 8 seconds counts as that of the first."""
    plain, shaken = tone(200, seconds=4.0), modulated(tone(200, seconds=4.0), 8.0, 0.6)
    late, early = (measures(np.concatenate(x)) for x in ((plain, shaken), (shaken, plain)))
    assert late["tremor_depth"] == pytest.approx(early["tremor_depth"], abs=0.15)


def test_syllables_are_counted():
    found = measures(modulated(tone(150), 3.0, 0.95))
    assert found["nuclei_rate"] == pytest.approx(3.0, abs=0.5)
    assert found["syllable_hz"] == pytest.approx(3.0, abs=0.6)


def test_a_pitch_that_rises_by_an_octave_in_2_s_has_a_slope_of_6_semitones_a_second():
    time = np.arange(2 * RATE) / RATE
    cycles = np.cumsum(120 * 2 ** (time / 2)) / RATE
    found = measures((0.1 * np.sin(2 * np.pi * cycles)).astype(np.float32))
    assert found["pitch_slope"] == pytest.approx(6.0, abs=0.2)
    assert found["pitch_range"] == pytest.approx(0.8 * 12, abs=0.5)


def test_noise_is_less_harmonic_and_brighter_than_a_tone():
    air = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.05
    breathy, clear = measures(air), measures(tone(200))
    assert breathy["harmonicity"] < 0.4 < 0.95 < clear["harmonicity"]
    assert breathy["high_band"] > clear["high_band"] + 20


@pytest.mark.parametrize("n", [0, 1, 100, 1600, 32000])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-8])
def test_every_measure_of_silence_and_of_next_to_nothing_is_finite(n, value):
    found = measures(np.full(n, value, dtype=np.float32))
    assert tuple(found) == MEASURES
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(bad):
    wave = tone(200)
    wave[7] = bad
    with pytest.raises(ValueError, match="not finite"):
        measures(wave)


def test_the_tracks_have_a_pitch_only_where_there_is_a_voice():
    wave = np.concatenate([tone(200, seconds=1.0), np.zeros(RATE, np.float32)])
    tracks = Tracks(wave)
    first, second = tracks.times < 0.9, tracks.times > 1.1
    assert np.nanmedian(tracks.pitch[first]) == pytest.approx(200, rel=0.01)
    assert np.isnan(tracks.pitch[second]).all()
    assert tracks.level[first].min() > tracks.level[second].max() + 40
