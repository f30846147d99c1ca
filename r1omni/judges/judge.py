"""The claim judges: what a clip shows and sounds like, calibrated on the cold start's texts alone.

For each attribute a multinomial logistic regression from measures of the sound, or from principal
components of the towers' features, to the level that the cold start's rationale claims. An
attribute is judged only where that works *among clips of one label*: a judge that had learned
stereotypes alone ("angry: loud") would pass any other test. N clips, F features, K components.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from r1omni.claims import ATTRIBUTES, Side, Verdict, claims, levels
from r1omni.evaluation_config import JudgesParams

Floats = NDArray[np.float64]
LEVELS: Final = (-1, 0, 1)
MIN_PAIRS: Final = 50  # of clips with one label and two levels, for the gate to say anything
MIN_CORPUS: Final = 20  # clips that a corpus needs to be standardised by itself


@dataclass(frozen=True)
class Probe:
    """One attribute: `weights` (K, 3), `bias` (3,), and how well it did in cross-validation.

    `reliability`: the chance that of two clips of one label the one with the higher level has the
    higher score; None where there are too few such pairs. `n` texts speak of the attribute.
    """

    weights: Floats
    bias: Floats
    reliability: float | None
    judged: bool
    n: int


@dataclass(frozen=True)
class ClaimJudge:
    """The probes of one side. Features are centred and scaled by `mean` and `scale` (F,), then
    projected by `components` (F, K) where there are such. `towers`: the fingerprint of those whose
    outputs a judge of the face was calibrated on (Backbone.tower_fingerprint)."""

    side: Side
    probes: Mapping[str, Probe]
    mean: Floats
    scale: Floats
    components: Floats | None
    towers: str | None = None

    @property
    def judged(self) -> tuple[str, ...]:
        """The attributes that passed the gate."""
        return tuple(name for name, probe in self.probes.items() if probe.judged)

    def verdicts(self, rows: Floats, *, own_scale: bool) -> list[Verdict]:
        """The verdict on each of N clips of one corpus, (N, F).

        `own_scale`: standardise by these rows, so that another microphone's level does not count;
        fewer than MIN_CORPUS rows, and False, use the calibration's mean and scale.
        """
        x = self.project(rows, own_scale=own_scale and len(rows) >= MIN_CORPUS)
        found: list[dict[str, tuple[float, float, float]]] = [{} for _ in rows]
        for name in self.judged:
            probe = self.probes[name]
            for verdict, p in zip(found, _softmax(x @ probe.weights + probe.bias), strict=True):
                verdict[name] = (float(p[0]), float(p[1]), float(p[2]))
        return list(found)

    def project(self, rows: Floats, *, own_scale: bool) -> Floats:
        """(N, F) -> (N, K)."""
        mean, scale = _standard(rows) if own_scale else (self.mean, self.scale)
        x = (rows - mean) / scale
        return x if self.components is None else x @ self.components


def fit_judge(
    rows: Floats,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    side: Side,
    components: int | None,
    judges: JudgesParams,
    corpora: Sequence[str] = (),
) -> ClaimJudge:
    """The judge of one side, calibrated on N clips (N, F), their rationales and labels.

    `components`: how many principal components take the features' place; None: no projection.
    `corpora`: of each clip; one with MIN_CORPUS clips or more is standardised by itself.
    """
    mean, scale = _standard(rows)
    x = (rows - mean) / scale
    for name in sorted(set(corpora)):
        own = np.array([corpus == name for corpus in corpora])
        if own.sum() >= MIN_CORPUS:
            its_mean, its_scale = _standard(rows[own])
            x[own] = (rows[own] - its_mean) / its_scale
    axes = None
    if components is not None:
        _, sizes, axes = np.linalg.svd(x, full_matrices=False)
        kept = int((sizes > 1e-9 * sizes.max(initial=0.0)).sum())
        kept = max(0, min(components, len(rows) - 1, kept))
        axes = _signed(axes[:kept]).T / (sizes[:kept] / np.sqrt(len(rows)))  # unit variance
        x = x @ axes
    probes = {
        name: _fit_probe(x, _targets(texts, name, side, judges), labels, judges)
        for name in ATTRIBUTES[side]
    }
    return ClaimJudge(side, probes, mean, scale, axes)


def within_labels(scores: Floats, values: NDArray[np.int64], labels: Sequence[str]) -> float | None:
    """The chance that of two clips of one label the one of higher value has the higher score.

    Ties count half. None for fewer than MIN_PAIRS such pairs.
    """
    names = np.asarray(labels)
    concordant, pairs = 0.0, 0
    for label in np.unique(names):
        own = names == label
        higher = values[own][:, None] > values[own][None]
        above = scores[own][:, None] - scores[own][None]
        concordant += float((above[higher] > 0).sum() + 0.5 * (above[higher] == 0).sum())
        pairs += int(higher.sum())
    return concordant / pairs if pairs >= MIN_PAIRS else None


def write_judge(judge: ClaimJudge, folder: Path) -> None:
    """Write <side>.json (what passed the gate) and <side>.safetensors (weights), atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        name: {"reliability": probe.reliability, "judged": probe.judged, "n": probe.n}
        for name, probe in judge.probes.items()
    }
    tensors = {"mean": judge.mean, "scale": judge.scale}
    if judge.components is not None:
        tensors["components"] = np.ascontiguousarray(judge.components)
    for name, probe in judge.probes.items():
        tensors |= {f"{name}.weights": probe.weights, f"{name}.bias": probe.bias}
    weights = folder / f".{judge.side}.safetensors.partial"
    save_file(
        {name: np.ascontiguousarray(t) for name, t in tensors.items()},
        weights,
        None if judge.towers is None else {"towers": judge.towers},
    )
    weights.replace(folder / f"{judge.side}.safetensors")
    text = folder / f".{judge.side}.json.partial"
    text.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    text.replace(folder / f"{judge.side}.json")


def read_judge(folder: Path, side: Side) -> ClaimJudge:
    """The judge in a folder. Raises ValueError naming the file for anything else."""
    try:
        about = json.loads((folder / f"{side}.json").read_text(encoding="utf-8"))
        with safe_open(folder / f"{side}.safetensors", "np") as file:
            names = file.keys()  # it is no mapping: it cannot be iterated over
            tensors = {name: file.get_tensor(name) for name in names}
            towers = (file.metadata() or {}).get("towers")
        probes = {
            str(name): Probe(
                tensors[f"{name}.weights"],
                tensors[f"{name}.bias"],
                known["reliability"],
                bool(known["judged"]),
                int(known["n"]),
            )
            for name, known in about.items()
        }
        return ClaimJudge(
            side, probes, tensors["mean"], tensors["scale"], tensors.get("components"), towers
        )
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder}/{side}.json: expected a judge, as the stage judges writes it: {error}"
        ) from error


def _targets(
    texts: Sequence[str], name: str, side: Side, judges: JudgesParams
) -> NDArray[np.float64]:
    """The level that each text claims of the attribute, NaN where it does not say: (N,).

    A text that denies a level, or claims two, does not say.
    """
    found = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        said, spoken = levels(text), {claim.attribute for claim in claims(text)}
        if name in said:
            found[i] = said[name]
        elif (
            judges.unmentioned == "middle"
            and name not in spoken
            and any(other in said for other in ATTRIBUTES[side])
        ):
            found[i] = 0
    return found


def _fit_probe(x: Floats, targets: Floats, labels: Sequence[str], judges: JudgesParams) -> Probe:
    from sklearn.model_selection import KFold

    speaks = np.isfinite(targets)
    x, y = x[speaks], targets[speaks].astype(np.int64)
    names = [label for label, known in zip(labels, speaks, strict=True) if known]
    nothing = Probe(np.zeros((x.shape[1], 3)), np.zeros(3), None, False, len(y))
    if len(y) < 2 * judges.folds or len(np.unique(y)) < 2:
        return nothing
    scores = np.zeros(len(y))
    for train, test in KFold(judges.folds, shuffle=True, random_state=judges.seed).split(x):
        if len(np.unique(y[train])) > 1:
            weights, bias = _fit(x[train], y[train], judges.penalty)
            p = _softmax(x[test] @ weights + bias)
            scores[test] = p[:, 2] - p[:, 0]
    reliability = within_labels(scores, y, names)
    judged = reliability is not None and reliability >= judges.min_reliability
    weights, bias = _fit(x, y, judges.penalty)
    return Probe(weights, bias, reliability, judged, len(y))


def _fit(x: Floats, y: NDArray[np.int64], penalty: float) -> tuple[Floats, Floats]:
    """Weights (K, 3) and bias (3,); a level that no text claims has no probability."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((x.shape[1], 3)), np.full(3, -30.0)
    model = LogisticRegression(C=1 / (penalty * len(y)), max_iter=2000, tol=1e-6).fit(x, y)
    present = [LEVELS.index(level) for level in model.classes_]
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # one row: the second level against the first
        coef, intercept = np.stack([-coef[0], coef[0]]) / 2, np.array([-1, 1]) * intercept[0] / 2
    weights[:, present], bias[present] = coef.T, intercept
    return weights, bias


def _standard(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation (F,); a feature that does not vary is left unscaled."""
    if not len(rows):
        return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    scale = rows.std(axis=0)
    return rows.mean(axis=0), np.where(scale > 1e-6, scale, 1.0)


def _signed(axes: Floats) -> Floats:
    """The axes (K, F), each with its largest entry positive: their signs are arbitrary."""
    at = np.abs(axes).argmax(axis=1)
    signed: Floats = axes * np.sign(axes[np.arange(len(axes)), at])[:, None]
    return signed


def _softmax(logits: Floats) -> Floats:
    exp: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = exp / exp.sum(axis=1, keepdims=True)
    return shares
