"""The sections of params.yaml about evaluation: judges, audit, score, report, promotion."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from r1omni.section import Count, Fraction, Positive, Section, Seed, Workers


class JudgesParams(Section):
    """How the claim judges and the reader are calibrated on the cold start's texts.

    `unmentioned`: what a text that describes a face, or a voice, says of an attribute that it does
    not name: its middle level, as our synthetic texts, or nothing, as people's. `components`: of
    the towers' features. `penalty`: L2 of the regressions. `reader_words`: the reader sees words
    beside claims.
    """

    folds: Annotated[int, Field(ge=2)]
    min_reliability: Fraction
    unmentioned: Literal["middle", "unknown"]
    components: Count
    penalty: Positive
    reader_words: bool
    seed: Seed


class AuditParams(Section):
    """Which clips are asked about again: `clips` of each corpus, each beside `donors` others.

    `samples`: completions of each clip, at `temperature`, among which judges and reader choose.
    """

    clips: Annotated[int, Field(ge=2)]
    donors: Count
    samples: Workers
    temperature: Positive
    seed: Seed


class ScoreParams(Section):
    """The bootstrap behind the intervals, and wheels to compare sets of words by."""

    bootstrap_samples: Count
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    seed: Seed
    wheels: Path | None


class ReportParams(Section):
    """What the report shows."""

    cards_per_label: Count
    rollout_groups: Count


class PromotionParams(Section):
    """The gate before the alias `champion` moves: a paired bootstrap on the held-out clips."""

    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    bootstrap_samples: Count
    seed: Seed
    margin: Fraction
    second: Literal["format"] | None
