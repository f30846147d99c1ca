"""Training curves: a stage's logged metrics by step, smoothed, and as CSV for DVC's plots."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARE = 10  # a curve's first and last tenth are "before" and "after"


@dataclass(frozen=True)
class Curve:
    """One metric over a stage's steps."""

    key: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def smooth(self) -> NDArray[np.float64]:
        """The mean over a centred window of a twentieth of the curve, shorter at the ends."""
        reach = len(self.values) // 40
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        index = np.arange(len(self.values))
        low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(index))
        return np.asarray((sums[high] - sums[low]) / (high - low))

    @property
    def start(self) -> float:
        """The mean over the first tenth."""
        return float(self.values[: self._tenth].mean())

    @property
    def end(self) -> float:
        """The mean over the last tenth."""
        return float(self.values[-self._tenth :].mean())

    @property
    def _tenth(self) -> int:
        return -(-len(self.values) // SHARE)


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves of a JSON-lines file by metric key; empty if the file is missing.

    Non-finite values are left out. Raises ValueError, naming file and line, for a line that is not
    a JSON object with an integer `step`.
    """
    if not path.is_file():
        return {}
    points: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        for key, step, value in _points(line, f"{path}:{number}"):
            points.setdefault(key, []).append((step, value))
    return {
        key: Curve(key, np.array([s for s, _ in pairs]), np.array([v for _, v in pairs]))
        for key, pairs in points.items()
    }


def curves_csv(curves: Sequence[Curve]) -> str:
    """The curves as CSV for DVC's plots: one line per step, one column per metric."""
    steps = sorted({int(step) for curve in curves for step in curve.steps})
    columns = [dict(zip(c.steps.tolist(), c.values.tolist(), strict=True)) for c in curves]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *(curve.key for curve in curves)])
    writer.writerows([step, *(column.get(step, "") for column in columns)] for step in steps)
    return text.getvalue()


def _points(line: str, where: str) -> list[tuple[str, int, float]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError(f'{where}: expected {{"step": integer, "metric": number, …}}')
    return [
        (key, row["step"], float(value))
        for key, value in row.items()
        if key != "step" and np.isfinite(value)
    ]
