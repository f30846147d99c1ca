"""Corpora in their own layouts -> clips, and what was rejected on the way."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from r1omni.corpora.clip import Clip, Reject


def read_clips(
    corpus: str,
    root: Path,
    fold: int = 1,
    *,
    workers: int = 0,
    timeout_seconds: float = 60.0,
    missing_audio: Literal["reject", "silence"] = "reject",
    max_rationale_words: int = 1000,
) -> tuple[list["Clip"], list["Reject"]]:
    """Every row of the corpus at `root`, either as a clip or as a reject, in the lists' order.

    `corpus` is dfew, mafw, ravdess, conversations or emer. Each file is opened in one of `workers`
    processes (0: one per core), which may take `timeout_seconds` for it. A clip without sound is
    rejected, or with "silence" kept; so is a rationale of more words. Nothing is written below
    `root`.

    Raises CorpusError (a ValueError), naming file, line and what was expected, where the corpus
    is not laid out as it should be.
    """
    from r1omni.corpora.ingest import read_corpus  # late: the worker processes import this package

    return read_corpus(
        corpus, root, fold,
        workers=workers, timeout_seconds=timeout_seconds, missing_audio=missing_audio,
        max_rationale_words=max_rationale_words,
    )  # fmt: skip
