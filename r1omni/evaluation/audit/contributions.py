"""How much picture, sound and rationale contribute to an answer: Shapley values in nats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from r1omni.evaluation.audit.examine import AUDIO, RATIONALE, VIDEO, Coalition, Examined
from r1omni.evaluation.audit.shapley import shapley

Floats = NDArray[np.float64]
FLOOR: Final = -12.0  # of v(S): what a model takes for impossible must not outweigh all else
ROUNDING: Final = 1e-12  # a smaller |phi| is the logarithms' rounding, not a contribution
MEDIA: Final = frozenset({VIDEO, AUDIO})
PLAYERS: Final = MEDIA | {RATIONALE}
NONE: Final[Coalition] = frozenset()


@dataclass(frozen=True)
class Contributions:
    """Shapley values of N clips by player, each (N,), nats; they sum to v(all) - v(none)."""

    donated: Mapping[str, Floats]  # absent: another clip's; for the model's own answer
    blank: Mapping[str, Floats]  # absent: darkness, silence; for the model's own answer
    label: Mapping[str, Floats]  # absent: another clip's; for the true label
    with_text: Mapping[str, Floats]  # picture, sound and rationale, absent: another clip's


def contributions(examined: Sequence[Examined]) -> Contributions:
    """The clips' contributions; empty mappings for what was not examined.

    v(S) = log mean over the donors of p(answer | media and rationale of S), not below FLOOR. With
    two players (the media) the rationale is what the model writes to what it is given.
    """
    own = {e.subject.clip_id: e.own for e in examined}
    answers = [answer_of(e) for e in examined]
    labels = [e.labels.index(e.subject.label) for e in examined]
    donated = [_donated(e, own) for e in examined]
    blank = [{**e.blank, MEDIA: e.own} for e in examined]
    text = [_text_too(e, own) for e in examined]
    return Contributions(
        _values(donated, answers),
        _values(blank, answers),
        _values(donated, labels),
        _values(text, answers),
    )


def answer_of(examined: Examined) -> int:
    """The index of the model's answer, or, where it is none of the labels, of the likeliest."""
    prediction = examined.subject.prediction
    if prediction in examined.labels:
        return examined.labels.index(prediction)
    return int(np.argmax(examined.own))


def share(values: Mapping[str, Floats], player: str) -> tuple[Floats, Floats]:
    """|phi| of a player, and of all players together, by clip: their sums' ratio is its share."""
    sizes = {name: np.where(np.abs(v) < ROUNDING, 0.0, np.abs(v)) for name, v in values.items()}
    return sizes[player], np.sum(list(sizes.values()), axis=0)


def _donated(e: Examined, own: Mapping[str, Floats]) -> dict[Coalition, Floats]:
    if not e.donated:
        return {}
    theirs = np.stack([own[clip_id] for clip_id, _ in e.subject.donors])
    return {**e.donated, MEDIA: e.own, NONE: theirs}


def _text_too(e: Examined, own: Mapping[str, Floats]) -> dict[Coalition, Floats]:
    if not e.text_too:
        return {}
    return {**e.text_too, PLAYERS: e.own, NONE: own[e.subject.donors[0][0]]}


def _values(
    games: Sequence[Mapping[Coalition, Floats]], answers: Sequence[int]
) -> dict[str, Floats]:
    """The Shapley values of each clip's game, at its answer."""
    if not games or not games[0]:
        return {}
    return shapley(
        {
            coalition: np.array(
                [
                    _value(game[coalition], answer)
                    for game, answer in zip(games, answers, strict=True)
                ]
            )
            for coalition in games[0]
        }
    )


def _value(logprobs: Floats, answer: int) -> float:
    """log mean over donors of p(answer): (L,) or (D, L) -> a number not below FLOOR."""
    at = np.atleast_2d(logprobs)[:, answer]
    return max(float(np.logaddexp.reduce(at) - np.log(len(at))), FLOOR)
