"""One MLflow run per checkpoint, opened by the training stage.

A training's results are the files that its stage writes: curves.jsonl and rollouts.parquet. MLflow
gets a live copy. If the store cannot be reached, training goes on and the points wait in memory.
The `register` stage sends the points that are still missing, from the files.
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
from r1omni.tracking.provenance import content_hash, lineage_tags, write_commit_record
from r1omni.tracking.store import StoreUnreachable, open_client, translate_store_errors
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
RETRY_SECONDS = 60.0  # after a failure of the store

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """The MLflow run of a training; pass `log` to the training loop."""

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
        """Add a step's metrics; they are sent every 50 steps or 10 s. No store error is raised."""
        self._rows.append(Row(step, dict(metrics), int(time.time() * 1000)))
        now = time.monotonic()
        if len(self._rows) >= FLUSH_ROWS or now - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self, *, at_once: bool = False) -> bool:
        """Send the waiting points. True if everything logged so far is in the store."""
        if time.monotonic() < self._retry_at and not at_once:
            return False
        self._flushed_at = time.monotonic()
        try:
            curves = self._connect()
            with translate_store_errors(self.tracking.uri):
                curves.deliver(self._rows)
        except StoreUnreachable as error:
            self._retry_later(error)
            return False
        self._rows.clear()
        return True

    def finish(self, checkpoint: Path, training: Path) -> None:
        """Complete the run from the stage's files and tag it with the checkpoint's content hash.

        If the store cannot be reached, the state file names the unfinished run for `register`.
        """
        self._undelivered = (content_hash(checkpoint), training)
        self._lineage = lineage_tags(checkpoint)
        write_commit_record(self.state.parent / f"{checkpoint.name}.made.json")
        self._complete()

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED. A finished run is never continued."""
        if self._monitor is not None:
            self._monitor.finish()
        if not (self.flush(at_once=True) and self._complete() and self._set_final_status(status)):
            return  # the next attempt, or `register`, needs the state file
        if status == "FINISHED":
            self.state.unlink(missing_ok=True)

    def _complete(self) -> bool:
        """True once the store has everything that the stage has written.

        First the state file gets the checkpoint's content hash, until `close` has ended the run.
        """
        if self._undelivered is None:
            return True
        digest, training = self._undelivered
        kept = json.loads(self.state.read_text(encoding="utf-8")) if self.state.is_file() else {}
        _write_state(self.state, {**kept, "content_hash": digest})
        if not self.flush(at_once=True) or self._run_id is None:
            return False
        try:
            with translate_store_errors(self.tracking.uri):
                deliver_training(self._client, self._run_id, training)
                tag_run(self._client, self._run_id, self._lineage)
                self._client.set_tag(self._run_id, "content_hash", digest)
        except StoreUnreachable as error:
            self._retry_later(error)
            return False
        self._undelivered = None
        return True

    def _set_final_status(self, status: str) -> bool:
        """True once the store has the run's final status."""
        try:
            with translate_store_errors(self.tracking.uri):
                self._client.set_terminated(self._run_id, status)
        except StoreUnreachable as error:
            logger.warning("the run stays RUNNING in MLflow until its next attempt: %s", error)
            return False
        return True

    def _retry_later(self, error: StoreUnreachable) -> None:
        self._curves = None  # the store may have taken points before the error: read it again
        logger.warning("training goes on without MLflow for %.0f s: %s", RETRY_SECONDS, error)
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _connect(self) -> Curves:
        if self._curves is not None:
            return self._curves
        if self._client is not None and self._run_id is not None:
            with translate_store_errors(self.tracking.uri):
                self._curves = Curves(self._client, self._run_id)
            return self._curves
        client, experiment = open_client(self.tracking)
        with translate_store_errors(self.tracking.uri):
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


class _DisabledRun(Run):
    """The run of every rank other than 0; it logs nothing."""

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
    name: str | None = None,
    datasets: Sequence[Path] = (),
    tags: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
    state: Path,
) -> Iterator[Run]:
    """The MLflow run of one training stage. Leaving the block ends it: FINISHED, FAILED or KILLED.

    `name`: what MLflow shows; by default the stage. `params`: nested, such as {"grpo": {...}}.
    `datasets`: manifests (parquet) or a corpus's JSON
    annotations. `state`: a small file outside DVC's outs; it keeps the run's id after a kill. The
    run is continued if stage, params, datasets and tags are the same as when it was opened.
    Otherwise a new run begins; the old one ends as KILLED if it is still RUNNING. `machine`: params
    that may change before a continuation. An unreachable store costs only a warning. Only rank 0
    (RANK in the environment) logs.
    """
    if not is_first():
        yield _DisabledRun(Description(stage, params, datasets, {}), tracking, state)
        return
    noted = (params, datasets, dict(tags or {}), dict(machine or {}))
    description = Description(stage, *noted, name=name)
    run = Run(description, tracking, state)
    run.flush()
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):  # SystemExit: SIGTERM stopped the training
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
