"""The emotion vocabulary: what each corpus writes, and the one canonical word for it.

Names, ids and counts come from the corpora's papers and loaders (DFEW: Jiang et al. 2020; MAFW:
Liu et al. 2022; RAVDESS: Livingstone & Russo 2018). Open-vocabulary answers are matched after
`canonical` has folded case, punctuation and the spelling variants below; nothing fuzzier.
"""

from typing import Final

EMOTIONS: Final[tuple[str, ...]] = (
    "neutral", "happy", "sad", "angry", "surprise", "fear", "disgust",
    "contemptuous", "anxious", "helpless", "disappointed", "calm",
)  # fmt: skip

DFEW_IDS: Final[dict[int, str]] = {
    1: "happy", 2: "sad", 3: "neutral", 4: "angry", 5: "surprise", 6: "disgust", 7: "fear",
}  # fmt: skip

MAFW_NAMES: Final[dict[str, str]] = {
    "anger": "angry", "disgust": "disgust", "fear": "fear", "happiness": "happy",
    "neutral": "neutral", "sadness": "sad", "surprise": "surprise", "contempt": "contemptuous",
    "anxiety": "anxious", "helplessness": "helpless", "disappointment": "disappointed",
}  # fmt: skip

RAVDESS_CODES: Final[dict[str, str]] = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
    "05": "angry", "06": "fear", "07": "disgust", "08": "surprise",
}  # fmt: skip

# One label set per test corpus: what a correct answer can be there.
LABELS: Final[dict[str, tuple[str, ...]]] = {
    "dfew": tuple(e for e in EMOTIONS if e in DFEW_IDS.values()),
    "mafw": tuple(e for e in EMOTIONS if e in MAFW_NAMES.values()),
    "ravdess": tuple(e for e in EMOTIONS if e in RAVDESS_CODES.values()),
}

# Spelling variants of the same word. MER2023's "worried" (arXiv 2304.08981) is nearest to anxious.
VARIANTS: Final[dict[str, str]] = {
    **{e: e for e in EMOTIONS},
    **MAFW_NAMES,
    "angry": "angry", "mad": "angry", "happily": "happy", "joy": "happy", "joyful": "happy",
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
