"""The reader: a rationale's text -> the emotion that it speaks for, as a sum over its claims.

A multinomial logistic regression over claims, fitted on the cold start's rationales. It sees no
clip, so it answers from what is described, and its logits are sums: what each claim adds is a
number. It can read other words, too, but those that name an emotion.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from r1omni.claims import Claim, claims
from r1omni.emotions import VARIANTS

Floats = NDArray[np.float64]
MIN_TEXTS: Final = 3  # that hold a word, for the reader to know it
_WORD: Final = re.compile(r"[a-z]+(?:['’-][a-z]+)*")  # noqa: RUF001


@dataclass(frozen=True)
class Reader:
    """`weights` (F, L) and `bias` (L,); `accuracy`: cross-validated, on `n` texts."""

    labels: tuple[str, ...]
    words: bool  # whether it reads words beside claims
    features: Mapping[str, int]  # "brows +1", "not loudness +1", or a word -> row of `weights`
    weights: Floats
    bias: Floats
    accuracy: float
    n: int

    def logits(self, rationales: Sequence[str]) -> Floats:
        """(n, L). A text without a known feature has the bias alone."""
        return _presence(rationales, self.features, self.words) @ self.weights + self.bias

    def probabilities(self, rationales: Sequence[str]) -> Floats:
        """p(label | text): (n, L)."""
        logits = self.logits(rationales)
        exp: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Floats = exp / exp.sum(axis=1, keepdims=True)
        return shares

    def answers(self, rationales: Sequence[str], labels: Sequence[str] = ()) -> list[str]:
        """The likeliest label of each text, among `labels` as far as the reader knows them."""
        if not rationales:
            return []
        among = [i for i, label in enumerate(self.labels) if not labels or label in labels]
        among = among or list(range(len(self.labels)))
        best = self.logits(rationales)[:, among].argmax(axis=1)
        return [self.labels[among[i]] for i in best]

    def claim_weights(self, rationale: str, label: str) -> tuple[float, ...]:
        """What each claim adds to the label's logit. A claim that is made again adds 0."""
        column, seen, found = self.labels.index(label), set[str](), []
        for claim in claims(rationale):
            name = _feature(claim)
            known = name in self.features and name not in seen
            found.append(float(self.weights[self.features[name], column]) if known else 0.0)
            seen.add(name)
        return tuple(found)

    def contributions(self, rationale: str, label: str) -> tuple[tuple[Claim | str, float], ...]:
        """Claims, other words and "(bias)" with what each adds: they sum to the label's logit."""
        column = self.labels.index(label)
        words = [
            (word, float(self.weights[self.features[word], column]))
            for word in sorted(_words(rationale))
            if self.words and word in self.features
        ]
        said = zip(claims(rationale), self.claim_weights(rationale, label), strict=True)
        return (*said, *words, ("(bias)", float(self.bias[column])))


def fit_reader(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    words: bool,
    folds: int,
    penalty: float,
    seed: int,
    masked: Callable[[str], bool] = VARIANTS.__contains__,
) -> Reader:
    """The reader of these texts. Raises ValueError for fewer than two labels, or without claims.

    `masked`: the words outside claims that it does not read, because they name an emotion.

    `penalty`: L2, per text, as in sum of log losses / n + penalty / 2 * |weights|^2. A label with
    fewer texts than folds still counts; it is then missing from some folds' training.
    """
    from sklearn.model_selection import KFold

    known = tuple(sorted(set(labels)))
    if len(known) < 2:
        raise ValueError(f"the reader needs rationales of two labels or more, found {list(known)}")
    features = _vocabulary(texts, words, masked)
    if not features:
        raise ValueError(f"the reader needs claims: none stands in {MIN_TEXTS} rationales")
    x, y = _presence(texts, features, words), np.array([known.index(label) for label in labels])
    hits = np.zeros(len(texts), dtype=bool)
    splits = min(folds, len(texts))
    for train, test in KFold(splits, shuffle=True, random_state=seed).split(x):
        weights, bias = _fit(x[train], y[train], len(known), penalty)
        hits[test] = (x[test] @ weights + bias).argmax(axis=1) == y[test]
    weights, bias = _fit(x, y, len(known), penalty)
    return Reader(known, words, features, weights, bias, float(hits.mean()), len(texts))


def write_reader(reader: Reader, path: Path) -> None:
    """Write it as JSON, atomically: a feature's line has its weight for each label."""
    names = sorted(reader.features, key=lambda name: reader.features[name])
    tree = {
        "labels": reader.labels,
        "words": reader.words,
        "accuracy": reader.accuracy,
        "n": reader.n,
        "bias": reader.bias.tolist(),
        "weights": {name: reader.weights[reader.features[name]].tolist() for name in names},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_reader(path: Path) -> Reader:
    """The reader in a JSON file. Raises ValueError naming the file for anything else."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        labels = tuple(str(label) for label in tree["labels"])
        weights = np.array(list(tree["weights"].values()), dtype=np.float64)
        bias = np.array(tree["bias"], dtype=np.float64)
        if weights.shape != (len(tree["weights"]), len(labels)) or bias.shape != (len(labels),):
            raise ValueError(f"{len(labels)} labels, but weights of the shape {weights.shape}")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError("a weight is not finite")
        features = {str(name): i for i, name in enumerate(tree["weights"])}
        return Reader(
            labels,
            bool(tree["words"]),
            features,
            weights,
            bias,
            float(tree["accuracy"]),
            int(tree["n"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a reader, as the stage judges writes it: {error}"
        ) from (error)


def _fit(x: Floats, y: NDArray[np.int64], n_labels: int, penalty: float) -> tuple[Floats, Floats]:
    """Weights (F, L) and bias (L,); a label that is not in y is all but impossible."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((x.shape[1], n_labels)), np.full(n_labels, -30.0)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = 0.0
        return weights, bias
    model = LogisticRegression(C=1 / (penalty * len(y)), max_iter=1000, tol=1e-6).fit(x, y)
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # one row: the second label against the first
        coef, intercept = np.stack([-coef[0], coef[0]]) / 2, np.array([-1, 1]) * intercept[0] / 2
    weights[:, present], bias[present] = coef.T, intercept
    return weights, bias


def _feature(claim: Claim) -> str:
    return f"{'not ' if claim.negated else ''}{claim.attribute} {claim.level:+d}"


def _words(rationale: str) -> set[str]:
    """The words outside claims."""
    text = list(rationale)
    for claim in claims(rationale):
        text[claim.start : claim.end] = " " * (claim.end - claim.start)
    return set(_WORD.findall("".join(text).casefold()))


def _claimed(rationale: str) -> set[str]:
    return {_feature(claim) for claim in claims(rationale)}


def _vocabulary(texts: Sequence[str], words: bool, masked: Callable[[str], bool]) -> dict[str, int]:
    counts = Counter(name for text in texts for name in _claimed(text))
    if words:
        counts.update(word for text in texts for word in _words(text) if not masked(word))
    known = sorted(name for name, count in counts.items() if count >= MIN_TEXTS)
    return {name: i for i, name in enumerate(known)}


def _presence(texts: Sequence[str], features: Mapping[str, int], words: bool) -> Floats:
    """1 where a text has a feature: (n, F)."""
    x = np.zeros((len(texts), len(features)))
    for i, text in enumerate(texts):
        said = _claimed(text) | (_words(text) if words else set())
        x[i, [features[name] for name in said if name in features]] = 1
    return x
