"""The emotion vocabulary: the canonical words, and the variants that mean the same.

What each corpus writes stands in its record (corpora/known/). Open-vocabulary answers are matched
after `canonical` has folded case, punctuation and the spelling variants below; nothing fuzzier.
"""

from collections.abc import Iterable
from typing import Final

EMOTIONS: Final[tuple[str, ...]] = (
    "neutral", "happy", "sad", "angry", "surprise", "fear", "disgust",
    "contemptuous", "anxious", "helpless", "disappointed", "calm",
)  # fmt: skip

# Spelling variants of the same word. MER2023's "worried" (arXiv 2304.08981) is nearest to anxious.
VARIANTS: Final[dict[str, str]] = {
    **{e: e for e in EMOTIONS},
    "anger": "angry", "happiness": "happy", "sadness": "sad", "anxiety": "anxious",
    "helplessness": "helpless", "disappointment": "disappointed", "mad": "angry",
    "happily": "happy", "joy": "happy", "joyful": "happy",
    "sorrow": "sad", "sorrowful": "sad", "surprised": "surprise", "fearful": "fear",
    "afraid": "fear", "scared": "fear", "disgusted": "disgust", "contempt": "contemptuous",
    "worried": "anxious", "worry": "anxious", "helplessly": "helpless",
    "disappointing": "disappointed", "calmness": "calm",
}  # fmt: skip

_EDGES: Final[str] = " \t\r\n.,;:!?\"'`*_()[]{}<>"


def canonical(answer: str) -> str | None:
    """The canonical label that `answer` names, or None if it is not exactly one known label.

    Folds case and the punctuation around the word, then looks the whole answer up: "Anger." is
    angry, "happy, sad" and "not happy" are nothing.
    """
    return VARIANTS.get(answer.strip(_EDGES).casefold())


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Each of the canonical labels once, in the order of EMOTIONS."""
    found = set(labels)
    return tuple(label for label in EMOTIONS if label in found)
