"""One MLflow run per checkpoint, opened at the edge of a training stage.

The truth about a training is what its stage writes: curves.jsonl and rollouts.parquet. MLflow gets
a live copy. While the store cannot be reached, training goes on and the points wait in memory; what
is still missing at the end is delivered from the files by the `register` stage.
"""

import json
import logging
import os
import time
import uuid
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
    TOKEN,
    Description,
    continued_run,
    create_run,
    deliver_training,
    give_up_run,
    tag_run,
)

FLUSH_ROWS = 50
FLUSH_SECONDS = 10.0
FIRST_PAUSE = 30.0  # seconds before a store that failed is tried again; doubles up to LONGEST_PAUSE
LONGEST_PAUSE = 600.0
LAST_PAUSES = (0.0, 1.0, 3.0)  # seconds before each try to end a run

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A training's line to its MLflow run; give `log` to the training loop."""

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
    _pause: float = FIRST_PAUSE
    _lineage: Mapping[str, str] = field(default_factory=dict)
    _owed: tuple[str, Path] | None = None  # the checkpoint's content hash, and the stage's curves

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps the point; sends what is kept every 50 steps or 10 seconds. Never raises for an
        unreachable store.
        """
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
        self._pause = FIRST_PAUSE
        return True

    def finish(self, checkpoint: Path, training: Path) -> None:
        """Completes the run from what the stage has written, and ties it to the checkpoint.

        Where the store cannot be reached, the state file remembers which run is owed the rest, for
        the `register` stage.
        """
        self._owed = (content_hash(checkpoint), training)
        self._lineage = lineage_tags(checkpoint)
        note_code(self.state.parent / f"{checkpoint.name}.made.json")
        self._complete()

    def close(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED; only a finished one is never continued."""
        if self._monitor is not None:
            self._monitor.finish()
        if not (self.flush(at_once=True) and self._complete() and self._ended(status)):
            return  # the state file stays: for the next attempt, or for `register`
        if status == "FINISHED":
            self.state.unlink(missing_ok=True)

    def _complete(self) -> bool:
        """True once the store has everything of the stage's outputs; else the debt is on disk.

        The debt is written first and stays there until `close` has ended the run.
        """
        if self._owed is None:
            return True
        digest, training = self._owed
        self._owe(digest)
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
        self._owed = None
        return True

    def _ended(self, status: str) -> bool:
        """True once the store has the run's end; a busy store is asked again, for nobody will
        later."""
        for pause in LAST_PAUSES:
            time.sleep(pause)
            try:
                with reaching(self.tracking.uri):
                    self._client.set_terminated(self._run_id, status)
                return True
            except StoreUnreachable as error:
                logger.warning("MLflow does not take the run's end: %s", error)
        return False

    def _owe(self, digest: str) -> None:
        kept = json.loads(self.state.read_text(encoding="utf-8")) if self.state.is_file() else {}
        _write_state(self.state, {**kept, "content_hash": digest})

    def _postpone(self, error: StoreUnreachable) -> None:
        self._curves = None  # the store may have taken what it did not answer to: ask it anew
        logger.warning("training goes on without MLflow for %.0f s: %s", self._pause, error)
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _connect(self) -> Curves:
        if self._curves is not None:
            return self._curves
        if self._client is not None and self._run_id is not None:
            with reaching(self.tracking.uri):
                self._curves = Curves(self._client, self._run_id)
            return self._curves
        client, experiment = open_client(self.tracking)
        mark = self.description.fingerprint()
        with reaching(self.tracking.uri):
            run_id = continued_run(client, experiment, self.state, self.description)
            resumed = run_id is not None
            if run_id is None:
                give_up_run(client, experiment, self.state)
                # Its name before itself: a kill in between must not leave a run that none finds.
                token = uuid.uuid4().hex
                _write_state(self.state, {"token": token, "fingerprint": mark})
                run_id = create_run(client, experiment, self.description, {TOKEN: token})
            _write_state(self.state, {"run_id": run_id, "fingerprint": mark})
            curves = Curves(client, run_id)
            if self.tracking.system_metrics:
                self._monitor = _start_monitor(client.tracking_uri, run_id, resumed)
        self._client, self._run_id, self._curves = client, run_id, curves
        return curves


class _Silent(Run):
    """The line of a rank that does not write."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: the first rank logs."""

    def finish(self, checkpoint: Path, training: Path) -> None:
        """Nothing: the first rank does it."""


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
    """The MLflow run of one training stage, closed with the status in which the block is left.

    `params`: nested, such as {"grpo": {...}}. `datasets`: manifests (parquet) or a corpus's JSON
    annotations. `state`: a small file, outside DVC's outs, where the run's id outlives a kill. The
    run is continued if stage, params, datasets and tags are the same as when it was opened;
    otherwise a new one begins, and the one that was left running ends as KILLED. `machine`:
    params that may change in between. An unreachable store costs a warning, nothing else. Of
    several ranks (RANK in the environment) only the first has a run; what the others log goes
    nowhere.
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
