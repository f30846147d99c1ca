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
    max_pixels: int = 4096 * 2304,
    memory_mb: int = 768,
    missing_audio: Literal["reject", "silence"] = "reject",
    max_rationale_words: int = 1000,
) -> tuple[list["Clip"], list["Reject"]]:
    """Every row of the corpus at `root`, either as a clip or as a reject, in the lists' order.

    `corpus` names a module of corpora/known/, or is "table". Each file is opened in one of
    `workers` processes (0: one per core), which may take `timeout_seconds` and `memory_mb` MiB for
    it, and `max_pixels` a frame. A clip without sound is rejected, or with "silence" kept; a
    rationale of more words is rejected. Nothing is written below `root`.

    Raises CorpusError (a ValueError), naming file, line and what was expected, where the corpus
    is not laid out as it should be.
    """
    from r1omni.config import IngestParams
    from r1omni.corpora.ingestion.ingest import read_corpus  # late: workers import this package
    from r1omni.corpora.known import find_corpus
    from r1omni.limits import Limits

    ingest = IngestParams(
        max_pixels=max_pixels,
        missing_audio=missing_audio,
        max_rationale_words=max_rationale_words,
    )
    limits = Limits(timeout_seconds, max_pixels, memory_mb)
    return read_corpus(
        find_corpus(corpus), root, fold, ingest=ingest, limits=limits, workers=workers
    )
