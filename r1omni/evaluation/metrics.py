"""WAR, UAR, recall, confusion and their bootstrap intervals. Pure; numpy only.

A prediction is a canonical label or None. None, and a label that the corpus does not have, count as
wrong, never as missing. Legend: C classes, B bootstrap samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

CalmPolicy = Literal["keep", "merge", "drop"]
CALM_POLICIES: Final[tuple[CalmPolicy, ...]] = ("keep", "merge", "drop")
NONE: Final[str] = "none"  # the confusion's column for answers that name none of its classes

Labels = Sequence[str]
Predictions = Sequence[str | None]


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals (low, high) of WAR and UAR, as fractions."""

    war: tuple[float, float]
    uar: tuple[float, float]


@dataclass(frozen=True)
class Gain:
    """The gain of one model over another on the same clips.

    An interval (low, high) need not be symmetric around the gain, so its half-width does not tell
    whether it excludes 0.
    """

    war: float
    war_ci: tuple[float, float]
    war_half_width: float
    uar: float
    uar_ci: tuple[float, float]
    uar_half_width: float


def war(labels: Labels, predictions: Predictions) -> float:
    """The share of correct predictions: accuracy, which is the support-weighted recall.

    Raises ValueError for no clips, and for lists of different lengths.
    """
    return float(_is_correct(labels, predictions).mean())


def uar(labels: Labels, predictions: Predictions) -> float:
    """The mean recall over the classes that occur in `labels`. Raises as `war` does."""
    return float(np.mean(list(recalls(labels, predictions).values())))


def recalls(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """The share of correct predictions for every class in `labels`, sorted by name."""
    right = _is_correct(labels, predictions)
    truth = np.asarray(labels)
    return {label: float(right[truth == label].mean()) for label in sorted(set(labels))}


def confusion(
    labels: Labels, predictions: Predictions, classes: Sequence[str]
) -> NDArray[np.int64]:
    """The confusion matrix (C, C + 1): rows are labels, columns predictions.

    The last column counts predictions that are None or not among `classes`. Raises ValueError for
    a label that is not among them.
    """
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise ValueError(f"labels {unknown} are not among the classes {list(classes)}")
    index = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        counts[index[label], index.get(prediction or NONE, len(classes))] += 1
    return counts


def rate(flags: Iterable[bool]) -> float:
    """The share of true flags. Raises ValueError for no flags."""
    values = list(flags)
    if not values:
        raise ValueError("a rate of no clips")
    return sum(values) / len(values)


def with_calm(
    policy: CalmPolicy, labels: Labels, predictions: Predictions
) -> tuple[list[str], list[str | None]]:
    """Labels and predictions under a policy for RAVDESS's calm, which DFEW and MAFW lack.

    keep: calm is a class. merge: calm counts as neutral, in label and prediction. drop: clips
    labelled calm are left out; the prediction calm stays wrong for all others.
    """
    pairs = list(zip(labels, predictions, strict=True))
    if policy == "merge":
        merged = {"calm": "neutral"}
        pairs = [(merged.get(t, t), merged.get(p, p) if p else None) for t, p in pairs]
    elif policy == "drop":
        pairs = [(t, p) for t, p in pairs if t != "calm"]
    return [t for t, _ in pairs], [p for _, p in pairs]


def bootstrap_intervals(
    labels: Labels, predictions: Predictions, *, samples: int, confidence: float, seed: int
) -> Intervals:
    """Percentile intervals of WAR and UAR over `samples` resamplings of the clips.

    UAR is taken over the classes present in each resampling.
    """
    draws = _resample(labels, [_is_correct(labels, predictions)], samples, seed)
    wars, uars = _war_uar(draws, 0)
    return Intervals(_percentiles(wars, confidence), _percentiles(uars, confidence))


def paired_gain(
    labels: Labels,
    before: Predictions,
    after: Predictions,
    *,
    samples: int,
    confidence: float,
    seed: int,
) -> Gain:
    """The gain from `before` to `after` on the same clips, and its bootstrap interval.

    Paired: both models use the same resampled clips, so the clips' difficulty cancels.
    """
    correct = [_is_correct(labels, before), _is_correct(labels, after)]
    draws = _resample(labels, correct, samples, seed)
    (wars_before, uars_before), (wars_after, uars_after) = _war_uar(draws, 0), _war_uar(draws, 1)
    war_ci = _percentiles(wars_after - wars_before, confidence)
    uar_ci = _percentiles(uars_after - uars_before, confidence)
    return Gain(
        war=war(labels, after) - war(labels, before),
        war_ci=war_ci,
        war_half_width=half_width(war_ci),
        uar=uar(labels, after) - uar(labels, before),
        uar_ci=uar_ci,
        uar_half_width=half_width(uar_ci),
    )


def half_width(interval: tuple[float, float]) -> float:
    """Half the distance between an interval's ends."""
    return (interval[1] - interval[0]) / 2


def _is_correct(labels: Labels, predictions: Predictions) -> NDArray[np.bool_]:
    if not labels:
        raise ValueError("no clips to score")
    return np.array([t == p for t, p in zip(labels, predictions, strict=True)], dtype=bool)


def _resample(
    labels: Labels, correct: Sequence[NDArray[np.bool_]], samples: int, seed: int
) -> NDArray[np.int64]:
    """Counts (B, C, 2^M) of the outcomes of M models per class; bit m: model m is correct.

    Drawing n clips with replacement and counting their outcomes is one multinomial draw over the
    outcomes' frequencies, which costs C x 2^M numbers a sample instead of n.
    """
    classes = sorted(set(labels))
    rows = np.array([classes.index(label) for label in labels])
    outcomes = np.sum([right.astype(int) << m for m, right in enumerate(correct)], axis=0)
    width = 2 ** len(correct)
    cells = np.bincount(rows * width + outcomes, minlength=len(classes) * width)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(labels), cells / len(labels), size=samples)  # (B, C * 2^M)
    return np.asarray(draws, dtype=np.int64).reshape(samples, len(classes), width)


def _war_uar(
    draws: NDArray[np.int64], model: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    is_right = (np.arange(draws.shape[2]) >> model) & 1 == 1
    hits = draws[:, :, is_right].sum(axis=2)  # (B, C)
    support = draws.sum(axis=2)  # (B, C)
    recall = np.divide(hits, support, out=np.zeros(hits.shape), where=support > 0)
    wars = hits.sum(axis=1) / support.sum(axis=1)
    uars = recall.sum(axis=1) / (support > 0).sum(axis=1)
    return wars, uars


def _percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
