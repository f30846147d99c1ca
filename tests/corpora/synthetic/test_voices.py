import numpy as np
import pytest
from linear_probe import held_out_accuracy, sound_features

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, SPEAKERS, VOICE
from r1omni.corpora.synthetic.voices import draw_voice

PLAIN = dict.fromkeys(ATTRIBUTES, 0)


def speak(levels, *, speaker=0, seed=0, n_samples=24000, noise=0.0):
    rng = np.random.default_rng(seed)
    return draw_voice(levels, speaker, rng, n_samples=n_samples, noise=noise)


def test_the_same_numbers_give_the_same_voice():
    assert np.array_equal(speak(PLAIN), speak(PLAIN))
    assert not np.array_equal(speak(PLAIN), speak(PLAIN, speaker=1))


def test_a_voice_is_as_long_as_asked_and_never_clips():
    for n_samples in (1600, 24000, 40000):
        waveform = speak(PLAIN | {"loudness": 1}, n_samples=n_samples)
        assert waveform.shape == (n_samples,)
        assert waveform.dtype == np.float32
        assert np.abs(waveform).max() <= 1.0


def test_loudness_survives():
    soft, normal, loud = (
        np.mean([np.sqrt((speak(PLAIN | {"loudness": v}, seed=s) ** 2).mean()) for s in range(5)])
        for v in (-1, 0, 1)
    )
    assert soft * 2 < normal
    assert normal * 1.8 < loud


def test_the_fundamental_follows_the_pitch_level():
    for level, hz in [(-1, 100), (0, 185), (1, 345)]:
        waveform = speak(PLAIN | {"pitch": level, "melody": -1, "tremor": -1})
        spectrum = np.fft.irfft(np.abs(np.fft.rfft(waveform, 1 << 16)) ** 2)
        lags = np.arange(36, 200)  # 80 to 444 Hz
        period = lags[np.argmax(spectrum[lags] - 0.0005 * spectrum[0] * lags)]
        assert 16000 / period == pytest.approx(hz, rel=0.15)


def test_least_squares_reads_every_attribute_and_the_speaker():
    rng = np.random.default_rng(0)
    heard, drawn = [], []
    for _ in range(450):
        levels = {name: int(rng.integers(-1, 2)) for name in ATTRIBUTES}
        speaker = int(rng.integers(SPEAKERS))
        heard.append(sound_features(draw_voice(levels, speaker, rng, n_samples=26000, noise=0.008)))
        drawn.append([*(levels[name] for name in VOICE), speaker])
    x, y = np.array(heard), np.array(drawn)
    found = {
        name: held_out_accuracy(x, y[:, i], 300, 10.0) for i, name in enumerate([*VOICE, "speaker"])
    }
    assert min(found.values()) > 0.75, found  # by chance 0.33, speaker 0.08
