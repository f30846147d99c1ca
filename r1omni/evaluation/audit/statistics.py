"""Shares with bootstrap intervals: resampled are clips, which hold several claims each."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r1omni.evaluation.audit_results import Measured

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals over `samples` resamplings of the clips."""

    samples: int
    confidence: float
    seed: int

    def ratio(
        self, numerators: ArrayLike, denominators: ArrayLike | None = None
    ) -> Measured | None:
        """sum(numerators) / sum(denominators), one of each a clip; None where the latter is 0.

        Without denominators it is the mean. n counts the clips that contribute.
        """
        above = np.asarray(numerators, dtype=np.float64)
        below = np.ones_like(above) if denominators is None else np.asarray(denominators, float)
        n = int(((above != 0) | (below != 0)).sum())
        if not below.sum():
            return None
        drawn = self._weights(len(below))  # (B, n)
        sums = drawn @ below
        ratios = (drawn @ above)[sums != 0] / sums[sums != 0]
        low, high = self._percentiles(ratios)
        value = float(above.sum() / below.sum())
        return Measured(value=value, low=low, high=high, n=n)

    def mean_recall(self, labels: NDArray[np.str_], right: ArrayLike) -> Measured | None:
        """UAR: the mean over the labels present of the share that is right."""
        hits = np.asarray(right, dtype=np.float64)
        if not len(labels):
            return None
        classes = np.unique(labels)
        members = np.stack([labels == name for name in classes], axis=1).astype(float)  # (n, C)
        drawn = self._weights(len(hits))
        with np.errstate(invalid="ignore"):
            recalls = (drawn @ (members * hits[:, None])) / (drawn @ members)  # (B, C)
        low, high = self._percentiles(np.nanmean(recalls, axis=1))
        value = float(np.mean((members * hits[:, None]).sum(0) / members.sum(0)))
        return Measured(value=value, low=low, high=high, n=len(hits))

    def _weights(self, n: int) -> Floats:
        return _weights(self.samples, n, self.seed)

    def _percentiles(self, values: Floats) -> tuple[float, float]:
        tail = (1 - self.confidence) / 2 * 100
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)


@lru_cache(maxsize=16)  # most numbers of a corpus are of the same clips
def _weights(samples: int, n: int, seed: int) -> Floats:
    """How often each resampling draws each clip: (B, n)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=samples).astype(np.float64)
