"""One MLflow run per checkpoint, opened at the edge of a training stage.

A training's results are the files that its stage writes: curves.jsonl and rollouts.parquet. MLflow
gets a live copy. If the store cannot be reached, training goes on and the points wait in memory.
What is missing at the end is delivered from the files by the `register` stage.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1omni.config import TrackingParams
from r1omni.machine.environment import is_first
from r1omni.tracking.curves import Curves, Row
from r1omni.tracking.provenance import content_hash, lineage_tags, note_code
from r1omni.tracking.store import StoreUnreachable, open_client, reaching
from r1omni.tracking.store_runs import (
    Description,
    continued_run,
    create_run,
    deliver_training,
    end_replaced_run,
    tag_run,
)

FLUSH_ROWS = 50
FLUSH_SECONDS = 10.0
RETRY_SECONDS = 60.0  # after a store has failed

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """The MLflow run of a training; give `log` to the training loop."""

    description: Description
    tracking: TrackingParams
    state: Path
    _rows: list[Row] = field(default_factory=list)
    _client: Any = None
    _run_id: str | None = None
    _curves: Curves | None = None
    _monitor: Any = None
    _flushed_at: float = field(default_factory=time.monotonic)
    _retry_at: float = 0.0
    _lineage: Mapping[str, str] = field(default_factory=dict)
    _undelivered: tuple[str, Path] | None = None  # the checkpoint's content hash, its training/

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point; points are sent every 50 steps or 10 seconds. Never raises for the store."""
        self._rows.append(Row(step, dict(metrics), int(time.time() * 1000)))
        now = time.monotonic()
        if len(self._rows) >= FLUSH_ROWS or now - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self, *, at_once: bool = False) -> bool:
        """True if everything logged so far is in the store."""
        if time.monotonic() < self._retry_at and not at_once:
            return False
        self._flushed_at = time.monotonic()
        try:
            curves = self._connect()
            with reaching(self.tracking.uri):
                curves.deliver(self._rows)
        except StoreUnreachable as error:
            self._postpone(error)
            return False
        self._rows.clear()
        return True

    def finish(self, checkpoint: Path, training: Path) -> None:
        """Complete the run from the stage's files and tag it with the checkpoint's content hash.

        If the store cannot be reached, the state file tells the `register` stage which run lacks
        the rest.
        """
        self._undelivered = (content_hash(checkpoint), training)
        self._lineage = lineage_tags(checkpoint)
        note_code(self.state.parent / f"{checkpoint.name}.made.json")
        self._complete()

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED. A finished run is never continued."""
        if self._monitor is not None:
            self._monitor.finish()
        if not (self.flush(at_once=True) and self._complete() and self._ended(status)):
            return  # the state file stays: for the next attempt, or for `register`
        if status == "FINISHED":
            self.state.unlink(missing_ok=True)

    def _complete(self) -> bool:
        """True once the store has all that the stage has written.

        The state file names the checkpoint before that, until `close` has ended the run.
        """
        if self._undelivered is None:
            return True
        digest, training = self._undelivered
        kept = json.loads(self.state.read_text(encoding="utf-8")) if self.state.is_file() else {}
        _write_state(self.state, {**kept, "content_hash": digest})
        if not self.flush(at_once=True) or self._run_id is None:
            return False
        try:
            with reaching(self.tracking.uri):
                deliver_training(self._client, self._run_id, training)
                tag_run(self._client, self._run_id, self._lineage)
                self._client.set_tag(self._run_id, "content_hash", digest)
        except StoreUnreachable as error:
            self._postpone(error)
            return False
        self._undelivered = None
        return True

    def _ended(self, status: str) -> bool:
        """True once the store has the run's final status."""
        try:
            with reaching(self.tracking.uri):
                self._client.set_terminated(self._run_id, status)
        except StoreUnreachable as error:
            logger.warning("the run stays RUNNING in MLflow until its next attempt: %s", error)
            return False
        return True

    def _postpone(self, error: StoreUnreachable) -> None:
        self._curves = None  # the store may have taken points without answering: read it again
        logger.warning("training goes on without MLflow for %.0f s: %s", RETRY_SECONDS, error)
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _connect(self) -> Curves:
        if self._curves is not None:
            return self._curves
        if self._client is not None and self._run_id is not None:
            with reaching(self.tracking.uri):
                self._curves = Curves(self._client, self._run_id)
            return self._curves
        client, experiment = open_client(self.tracking)
        with reaching(self.tracking.uri):
            run_id = continued_run(client, self.state, self.description)
            resumed = run_id is not None
            if run_id is None:
                end_replaced_run(client, self.state)
                run_id = create_run(client, experiment, self.description)
            kept = {"run_id": run_id, "fingerprint": self.description.fingerprint()}
            _write_state(self.state, kept)
            curves = Curves(client, run_id)
            if self.tracking.system_metrics:
                self._monitor = _start_monitor(client.tracking_uri, run_id, resumed)
        self._client, self._run_id, self._curves = client, run_id, curves
        return curves


class _Silent(Run):
    """The run of a rank other than 0, which logs nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing: rank 0 logs."""

    def finish(self, checkpoint: Path, training: Path) -> None:
        """Do nothing: rank 0 completes the run."""


@contextmanager
def open_run(
    stage: str,
    *,
    tracking: TrackingParams,
    params: Mapping[str, Any],
    datasets: Sequence[Path] = (),
    tags: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
    state: Path,
) -> Iterator[Run]:
    """The MLflow run of one training stage. Leaving the block ends it: FINISHED, FAILED or KILLED.

    `params`: nested, such as {"grpo": {...}}. `datasets`: manifests (parquet) or a corpus's JSON
    annotations. `state`: a small file outside DVC's outs that keeps the run's id over a kill. The
    run is continued if stage, params, datasets and tags equal those that it was opened with.
    Otherwise a new run begins, and the old one, if it is still RUNNING, ends as KILLED. `machine`:
    params that may change in between. An unreachable store costs a warning, nothing else. Of
    several ranks (RANK in the environment) only rank 0 logs.
    """
    if not is_first():
        yield _Silent(Description(stage, params, datasets, {}), tracking, state)
        return
    description = Description(stage, params, datasets, dict(tags or {}), dict(machine or {}))
    run = Run(description, tracking, state)
    run.flush()
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):  # a training that SIGTERM stopped leaves by SystemExit
        run.close("KILLED")
        raise
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")


def _start_monitor(uri: str, run_id: str, resumed: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run_id, resume_logging=resumed, tracking_uri=uri)
    monitor.start()
    return monitor


def _write_state(state: Path, kept: Mapping[str, str]) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    temporary = state.with_name(f"{state.name}.{os.getpid()}")
    temporary.write_text(json.dumps(kept), encoding="utf-8")
    temporary.replace(state)
