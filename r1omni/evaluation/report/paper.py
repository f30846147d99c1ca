"""Table 1 of the R1-Omni paper (arXiv 2503.05379), and our checkpoint for each of its rows.

The paper's text swaps WAR and UAR; the table is right: 65.83 % is 1541/2341. Its DFEW rows fit only
n = 2341 (fold 1 or 2), its RAVDESS rows only n = 300 (calm kept).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from r1omni.evaluation.results import Metrics

SOURCE: Final[str] = "Zhao, Wei, Bo: R1-Omni, arXiv 2503.05379, Table 1"

CORPORA: Final[Mapping[str, str]] = {"dfew": "DFEW", "mafw": "MAFW", "ravdess": "RAVDESS"}


@dataclass(frozen=True)
class Row:
    """One row: the paper's name, our checkpoint, and the paper's (WAR, UAR) in percent."""

    name: str
    model: str
    paper: Mapping[str, tuple[float, float]]


ROWS: Final[tuple[Row, ...]] = (
    Row(
        "HumanOmni-0.5B",
        "base",
        {"dfew": (22.64, 19.44), "mafw": (20.18, 13.52), "ravdess": (7.33, 9.38)},
    ),
    Row(
        "EMER-SFT",
        "cold_start",
        {"dfew": (38.66, 35.31), "mafw": (38.39, 28.02), "ravdess": (29.00, 27.19)},
    ),
    Row(
        "MAFW-DFEW-SFT",
        "label_sft",
        {"dfew": (60.23, 44.39), "mafw": (50.44, 30.39), "ravdess": (29.33, 30.75)},
    ),
    Row(
        "R1-Omni",
        "grpo",
        {"dfew": (65.83, 56.27), "mafw": (57.68, 40.04), "ravdess": (43.00, 44.69)},
    ),
)

# 95 % half-widths of R1-Omni's WAR in points: 1.96 sqrt(p (1 - p) / n), n = 2341, 1839 and 300.
PAPER_HALF_WIDTHS: Final[Mapping[str, float]] = {"dfew": 1.9, "mafw": 2.3, "ravdess": 5.6}


def columns(metrics: Metrics) -> dict[str, str]:
    """The corpora that tables have a column for, with their titles: the paper's, then others."""
    measured = {corpus for corpora in metrics.values() for corpus in corpora}
    return {**CORPORA, **{corpus: corpus for corpus in sorted(measured - set(CORPORA))}}


def title(model: str) -> str:
    """The paper's name for our checkpoint, or the checkpoint's own."""
    return next((row.name for row in ROWS if row.model == model), model)
