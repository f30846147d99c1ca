"""A model's answers to the held-out clips: a predictions table with the dataset's digest.

The gate compares models by these tables, never by the test sets. Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from r1omni.corpora.clip import Clip
from r1omni.evaluation.metrics import rate, uar, war
from r1omni.evaluation.predictions import Prediction, TableMetadata, write_predictions
from r1omni.tracking.provenance import HELD_OUT_NOTE


def dataset_digest(clips: Iterable[Clip]) -> str:
    """The SHA-256 over the clips' ids, labels and bytes, in the order of their ids."""
    lines = sorted(
        json.dumps([c.corpus, c.clip_id, c.label, c.sha256, c.start, c.end]) for c in clips
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_held_out(
    rows: Sequence[Prediction], clips: Sequence[Clip], path: Path, metadata: TableMetadata
) -> None:
    """Write the table, atomically; its metadata has the clips' digest, WAR, UAR and format rate."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    write_predictions(rows, unfinished, metadata)
    table = pq.read_table(unfinished)
    note = {"digest": dataset_digest(clips), "n": len(rows), **_metrics(rows)}
    metadata_with_note = {**table.schema.metadata, HELD_OUT_NOTE: json.dumps(note).encode()}
    pq.write_table(table.replace_schema_metadata(metadata_with_note), unfinished)
    unfinished.replace(path)


def _metrics(rows: Sequence[Prediction]) -> dict[str, float]:
    if not rows:
        return {}
    labels, predictions = [row.label for row in rows], [row.prediction for row in rows]
    return {
        "war": war(labels, predictions),
        "uar": uar(labels, predictions),
        "format_rate": rate(row.well_formed for row in rows),
    }
