"""What a waveform sounds like, in numbers that no model made: level, pitch, rate, tremor, breath.

numpy only. S samples in -1…1. Frames of 50 ms every 10 ms carry pitch and level; an envelope of
200 values a second carries syllables and tremor.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

MEASURES: Final[tuple[str, ...]] = (
    "level", "level_peak", "level_speech", "level_range", "speech_share",
    "pitch", "pitch_spread", "pitch_range", "pitch_slope", "voiced_share",
    "nuclei_rate", "syllable_hz", "syllable_depth",
    "tremor_amplitude", "tremor_depth", "tremor_pitch", "tremor_hz",
    "harmonicity", "tilt", "high_band", "subharmonic", "jitter",
)  # fmt: skip
RATE: Final = 16000  # Hz, of the sound that is measured
FRAME_SECONDS: Final = 0.05
HOP_SECONDS: Final = 0.01
ENVELOPE_HZ: Final = 200.0
LOWEST_HZ, HIGHEST_HZ = 70.0, 500.0  # of a voice's pitch
FLOOR_DB: Final = -80.0
SPEECH_DB: Final = 25.0  # below the loudest frames speech ends
VOICED: Final = 0.45  # of a period's correlation with the next one
SYLLABLES_HZ, TREMOR_HZ = (0.8, 8.0), (8.0, 14.0)  # of the envelope's modulation
SHAKING_HZ: Final = (5.0, 14.0)  # tremor's whole range, where fast syllables lie, too


class Tracks:
    """Level (dB), pitch (Hz, NaN where unvoiced) and harmonicity of frames at `times` (s)."""

    def __init__(self, waveform: NDArray[np.floating], sampling_rate: int = 16000) -> None:
        samples = _checked(waveform)
        # Pitch needs no more than 4 kHz: half the samples take half the time.
        step = max(1, sampling_rate // 8000)
        rate = sampling_rate / step
        samples = samples[: len(samples) // step * step].reshape(-1, step).mean(axis=1)
        frames = _frames(samples, rate, FRAME_SECONDS, HOP_SECONDS)
        self.times: Floats = np.arange(len(frames)) * HOP_SECONDS + FRAME_SECONDS / 2
        self.level: Floats = _decibel(np.sqrt(np.mean(frames**2, axis=1)))
        self.spoken = self.level > max(float(self.level.max()) - SPEECH_DB, FLOOR_DB + 1)
        self.pitch, self.harmonicity, self.subharmonic = _pitch(frames, rate)
        voiced = self.spoken & (self.harmonicity > VOICED)
        self.pitch = np.where(voiced, self.pitch, np.nan)


def measures(waveform: NDArray[np.floating], sampling_rate: int = 16000) -> dict[str, float]:
    """The measures of a waveform (S,), all finite; of silence and of nothing, too.

    Decibels are of full scale, pitch is in semitones above 100 Hz, rates are per second, shares
    in [0, 1]. Raises ValueError for samples that are not finite.
    """
    samples = _checked(waveform)
    tracks = Tracks(samples, sampling_rate)
    spoken = tracks.spoken
    found = dict.fromkeys(MEASURES, 0.0)
    found["level"] = float(_decibel(np.sqrt(np.mean(samples**2) if len(samples) else 0.0)))
    found["level_peak"] = float(np.percentile(tracks.level, 95))
    if spoken.any():
        found["level_speech"] = float(tracks.level[spoken].mean())
        found["level_range"] = float(np.ptp(np.percentile(tracks.level, [10, 90])))
        found["speech_share"] = float(spoken.mean())
        found["harmonicity"] = float(tracks.harmonicity[spoken].mean())
        found |= _of_pitch(tracks)
        found |= _of_envelope(samples, sampling_rate)
        found |= _of_spectrum(samples, sampling_rate)
    else:
        found["level_speech"] = FLOOR_DB
    return found


def _checked(waveform: NDArray[np.floating]) -> Floats:
    samples = np.asarray(waveform, dtype=np.float64).reshape(-1)
    if not np.isfinite(samples).all():
        raise ValueError("the waveform has samples that are not finite")
    return samples


def _decibel(amplitude: Floats) -> Floats:
    return 20 * np.log10(np.maximum(amplitude, 10 ** (FLOOR_DB / 20)))


def _frames(samples: Floats, rate: float, seconds: float, hop_seconds: float) -> Floats:
    """Overlapping frames (N, n), at least one; the end is padded with silence."""
    size, hop = round(seconds * rate), round(hop_seconds * rate)
    padded = np.pad(samples, (0, max(size - len(samples), 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]


def _pitch(frames: Floats, rate: float) -> tuple[Floats, Floats, Floats]:
    """Of each of N frames (N, n): pitch (Hz), the correlation at its period, and at half of it.

    A creaky voice correlates at half of the period, too: every other pulse is weak. By the
    autocorrelation of a windowed frame over that of its window (Boersma 1993).
    """
    size = frames.shape[1]
    low, high = int(rate / HIGHEST_HZ), min(int(rate / LOWEST_HZ), size // 2 - 1)
    window = np.hanning(size)
    grid = -(-(size + high + 2) // 64) * 64  # no lag that is read wraps around
    centred = (frames - frames.mean(axis=1, keepdims=True)) * window
    correlation = _autocorrelation(centred.astype(np.float32), grid)[:, : high + 2]
    own = _autocorrelation(window, grid)[: high + 2]
    energy = np.maximum(correlation[:, :1], 1e-12)
    correlation = (correlation / energy) / (own / own[0])
    searched = correlation[:, low : high + 1]
    # A short period is preferred: its multiples correlate as well.
    lags = np.arange(low, high + 1)
    lag = (searched - 0.03 * np.log2(lags * LOWEST_HZ / rate)).argmax(axis=1) + low
    at = np.arange(len(frames))
    best = np.clip(correlation[at, lag], 0.0, 1.0)
    before, after = correlation[at, lag - 1], correlation[at, lag + 1]
    curve = np.minimum(before + after - 2 * correlation[at, lag], -1e-9)
    shift = np.clip((before - after) / (2 * curve), -0.5, 0.5)
    half = np.clip(correlation[at, np.maximum(lag // 2, 1)], -1.0, 1.0)
    return rate / (lag + shift), best, half


def _autocorrelation(frames: Floats, grid: int) -> Floats:
    """(…, n) -> (…, grid); float32 for float32."""
    spectrum = np.fft.rfft(frames, grid)
    power = spectrum.real**2 + spectrum.imag**2
    return np.fft.irfft(power.astype(spectrum.dtype), grid)


def _of_pitch(tracks: Tracks) -> dict[str, float]:
    voiced = np.isfinite(tracks.pitch)
    found = {
        "voiced_share": float(voiced[tracks.spoken].mean()),
        "subharmonic": float(tracks.subharmonic[tracks.spoken].mean()),
    }
    if voiced.sum() < 3:
        return found
    semitones = 12 * np.log2(tracks.pitch[voiced] / 100.0)
    times = tracks.times[voiced]
    low, high = np.percentile(semitones, [10, 90])
    smooth = _smoothed(semitones, 11)
    bend = semitones - smooth
    steps = np.abs(np.diff(semitones))[np.diff(times) < 1.5 * HOP_SECONDS]
    return found | {
        "pitch": float(np.median(semitones)),
        "pitch_spread": float(smooth.std()),
        "pitch_range": float(high - low),
        "pitch_slope": float(np.polyfit(times - times.mean(), semitones, 1)[0]),
        "tremor_pitch": float(np.sqrt(np.mean(np.minimum(bend**2, 4.0)))),
        "jitter": float(np.median(steps)) if len(steps) else 0.0,
    }


def _smoothed(values: Floats, width: int) -> Floats:
    """A running mean over `width` values, fewer at the ends."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _of_envelope(samples: Floats, rate: int) -> dict[str, float]:
    """Syllables and tremor, from the amplitude's slow modulation."""
    frames = _frames(samples, rate, 2.5 / ENVELOPE_HZ, 1 / ENVELOPE_HZ)
    envelope = np.sqrt(np.mean(frames**2, axis=1))
    if len(envelope) < 20:
        return {}
    relative = envelope / envelope.mean()
    window = np.hanning(len(relative))
    grid = max(1 << 10, 1 << (len(relative) - 1).bit_length())
    power = np.abs(np.fft.rfft((relative - 1) * window, grid)) ** 2
    hz = np.fft.rfftfreq(grid, 1 / ENVELOPE_HZ)
    slow, fast, shaking = (_within(hz, band) for band in (SYLLABLES_HZ, TREMOR_HZ, SHAKING_HZ))
    total = power[_within(hz, (SYLLABLES_HZ[0], TREMOR_HZ[1]))].sum() + 1e-12
    smooth = _smoothed(_smoothed(relative, 15), 15)
    inner = smooth[1:-1]
    peaks = (inner > smooth[:-2]) & (inner >= smooth[2:]) & (inner > 0.4 * smooth.max())
    return {
        "nuclei_rate": float(peaks.sum() / (len(envelope) / ENVELOPE_HZ)),
        "syllable_hz": float((hz[slow] * power[slow]).sum() / (power[slow].sum() + 1e-12)),
        "syllable_depth": float(smooth.std()),
        "tremor_amplitude": float(np.log10(power[fast].sum() / total + 1e-4)),
        "tremor_depth": float(
            np.log10(2 * power[shaking].sum() / (grid * (window @ window)) + 1e-4)
        ),
        "tremor_hz": float(hz[fast][power[fast].argmax()]),
    }


def _of_spectrum(samples: Floats, rate: int) -> dict[str, float]:
    """The long-term spectrum's slope and its share of high frequencies."""
    frames = _frames(samples, rate, 0.032, 0.016)
    window = np.hanning(frames.shape[1])
    spectrum = np.fft.rfft((frames * window).astype(np.float32))
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0, dtype=np.float64)
    power += 1e-9 * power.max() + 1e-20
    hz = np.fft.rfftfreq(frames.shape[1], 1 / rate)
    voice = _within(hz, (200.0, min(6000.0, 0.45 * rate)))
    octaves = np.log2(hz[voice])
    tilt = np.polyfit(octaves - octaves.mean(), 10 * np.log10(power[voice]), 1)[0]
    low, high = (power[_within(hz, band)].sum() for band in ((100.0, 1500.0), (3000.0, rate / 2)))
    return {"tilt": float(tilt), "high_band": float(10 * np.log10(high / low))}


def _within(hz: Floats, band: tuple[float, float]) -> NDArray[np.bool_]:
    return (hz >= band[0]) & (hz <= band[1])
