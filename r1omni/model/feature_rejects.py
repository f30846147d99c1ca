"""Clips that ingestion accepted and that could not be decoded for features: a table beside them.

Training and evaluation leave such clips out, and say how many there are.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import pandas as pd

from r1omni.corpora.clip import Clip
from r1omni.machine.environment import is_first
from r1omni.model.checksums import verify_table

REJECTS: Final = "rejects.parquet"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureReject:
    """A clip without features, and why it could not be decoded."""

    clip_id: str
    path: str  # relative to the corpus root
    reason: str


def write_feature_rejects(rejects: Iterable[FeatureReject], folder: Path) -> None:
    """Write the table into a folder of features; without rejects there is no table."""
    rows = [asdict(reject) for reject in rejects]
    if rows:
        columns = [field.name for field in fields(FeatureReject)]
        table = pd.DataFrame(rows, columns=columns).astype("string")
        table.to_parquet(folder / REJECTS, index=False)


def read_feature_rejects(folder: Path) -> list[FeatureReject]:
    """The rejects of a folder of features. Raises ValueError for a damaged table."""
    path = folder / REJECTS
    if not verify_table(path):
        return []
    try:
        rows = pd.read_parquet(path).to_dict("records")
        return [FeatureReject(**{str(k): str(v) for k, v in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: not a table of rejects: {error}; run the features stage"
        ) from error


def without_rejects(clips: Sequence[Clip], folders: Sequence[Path]) -> list[Clip]:
    """The clips that have features. How many were left out, and the first of them, is logged."""
    reasons = {r.clip_id: r.reason for folder in folders for r in read_feature_rejects(folder)}
    left_out = [clip for clip in clips if clip.clip_id in reasons]
    if left_out and is_first():
        first = left_out[0]
        _log.warning(
            "%d of %d clips have no features and are left out; the first, %s: %s",
            len(left_out), len(clips), first.clip_id, reasons[first.clip_id],
        )  # fmt: skip
    return [clip for clip in clips if clip.clip_id not in reasons]
