"""A linear probe: how well least squares reads a three-level attribute from features."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def held_out_accuracy(features: Array, levels: Array, train: int, ridge: float) -> float:
    """Accuracy on the rows after `train` of ridge regression to one-hot levels, (N, D), (N,)."""
    x = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-6)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    classes = np.unique(levels)
    y = (levels[:train, None] == classes) - 1 / len(classes)
    kernel = x[:train] @ x[:train].T + ridge * np.eye(train)
    scores = x[train:] @ (x[:train].T @ np.linalg.solve(kernel, y))
    return float((classes[scores.argmax(1)] == levels[train:]).mean())


def sound_features(waveform: npt.NDArray[np.float32]) -> Array:
    """Mean and spread of 40 log bands, and how fast loudness and pitch change."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(windows)) ** 2 + 1e-9  # (T, 257)
    edges = np.unique(np.round(np.geomspace(2, 257, 41)).astype(int))
    bands = np.log10(np.add.reduceat(power[:, :256], edges[:-1], axis=1))
    low = power[:, 2:16]  # 62 to 470 Hz: where the pitch is
    pitch = np.log((low * np.arange(2, 16)).sum(1) / low.sum(1))
    loud = np.log10(power.sum(1))
    spectrum = np.abs(np.fft.rfft((loud - loud.mean()) * np.hanning(len(loud)), 256))[:40]
    spectrum = np.log(spectrum.reshape(20, 2).mean(1) + 1e-3)  # 0 to 16 Hz
    spread = np.log([pitch.std(), loud.std(), np.ptp(pitch), np.diff(loud).std()])
    return np.concatenate([bands.mean(0), bands.std(0), spectrum, spread])
