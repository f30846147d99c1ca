"""Curves sent to MLflow in batches, each point once."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# MLflow takes at most this many metrics in one transaction.
BATCH = 1000


class Row(NamedTuple):
    """The metrics of one step, and the time of their measurement.

    MLflow stores a point that is sent twice only once if its time is the same. So the time stays
    with the row while the process lives. A curves file has no times.
    """

    step: int
    metrics: Mapping[str, float]
    at: int | None = None  # milliseconds since 1970; None: the time of delivery


class Curves:
    """The curves of one MLflow run; sends the points that the store lacks."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._last = {
            key: max(point.step for point in client.get_metric_history(run_id, key))
            for key in client.get_run(run_id).data.metrics
            if not key.startswith(("system/", "eval/"))
        }

    def deliver(self, rows: Iterable[Row]) -> int:
        """Send the points that the store lacks. Returns their number.

        A point at or before its curve's last step is skipped: a resumed training repeats the steps
        since its last saved state, with the same numbers. A non-finite value is sent as NaN, which
        MLflow draws as a gap.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        sent = 0
        for batch in _batches(rows, self._last):
            metrics = [Metric(key, value, at or now, step) for step, key, value, at in batch]
            self._client.log_batch(self._run_id, metrics=metrics)
            self._last.update({key: step for step, key, _, _ in batch})
            sent += len(batch)
        return sent


def read_curves(path: Path) -> list[Row]:
    """The rows of a curves.jsonl, in order; none if the file does not exist.

    Raises ValueError, naming file and line, for a line that is not {"step": int, key: number}.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
            metrics = {k: math.nan if v is None else float(v) for k, v in values.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f'{path}:{number}: expected {{"step": int, key: number}}') from error
        rows.append(Row(step, metrics))
    return rows


def _batches(
    rows: Iterable[Row], last: Mapping[str, int]
) -> Iterator[list[tuple[int, str, float, int | None]]]:
    batch: list[tuple[int, str, float, int | None]] = []
    reached = dict(last)
    for step, metrics, at in rows:
        new = [
            (step, key, float(value) if math.isfinite(value) else math.nan, at)
            for key, value in metrics.items()
            if key not in reached or step > reached[key]
        ]
        if len(batch) + len(new) > BATCH:
            yield batch
            batch = []
        batch += new
        reached.update({key: step for _, key, _, _ in new})
    if batch:
        yield batch
