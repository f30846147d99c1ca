"""A training's run in MLflow's store: create it, find it again, send its missing points."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from r1omni.tracking.curves import Curves, read_curves
from r1omni.tracking.provenance import (
    code_tags,
    dataset_inputs,
    dataset_name,
    file_hash,
    fingerprint,
    flatten,
)

ROLLOUTS_SHOWN = 512
# MLflow's own limits.
PARAM_LENGTH = 6000
PARAMS_PER_BATCH = 100


@dataclass(frozen=True)
class Description:
    """The stage, params, datasets and tags of a new run."""

    stage: str
    params: Mapping[str, Any]
    datasets: Sequence[Path]
    tags: Mapping[str, str]
    machine: Mapping[str, Any] = field(default_factory=dict)  # params that do not affect results
    name: str | None = None  # what MLflow shows; the stage without one

    def fingerprint(self) -> str:
        """A hash that is equal for two trainings that would give the same numbers."""
        data = [(dataset_name(path), file_hash(path)) for path in self.datasets]
        return fingerprint(self.stage, self.params, data, self.tags)


def create_run(client: Any, experiment: str, description: Description) -> str:
    """The id of a new run with name, tags, params and dataset inputs."""
    from mlflow.entities import Param

    tags = {
        "stage": description.stage,
        "mlflow.source.name": f"r1omni {description.stage}",
        **code_tags(),
        **description.tags,
    }
    run = client.create_run(experiment, tags=tags, run_name=description.name or description.stage)
    run_id = str(run.info.run_id)
    values = [*flatten(description.params), *flatten(description.machine)]
    params = [Param(key, value[:PARAM_LENGTH]) for key, value in values]
    for start in range(0, len(params), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])
    if description.datasets:
        client.log_inputs(run_id, dataset_inputs(description.datasets))
    return run_id


def tag_run(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an existing run."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def unfinished_run(client: Any, state: Path, digest: str) -> str | None:
    """The unfinished run that trained the checkpoint with this content hash, or None."""
    if not state.is_file():
        return None
    kept = json.loads(state.read_text(encoding="utf-8"))
    if kept.get("content_hash") != digest or "run_id" not in kept:
        return None
    return _resume_run(client, kept["run_id"])


def undelivered_times(state: Path, digest: str) -> Path | None:
    """The file with a training's seconds (time/*), which the store may lack; None without one.

    They are in no output of the stage. `digest`: the content hash of that training's checkpoint.
    """
    kept = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    times = state.with_name(state.name.removesuffix(".run.json")) / "times.jsonl"
    return times if kept.get("content_hash") == digest and times.is_file() else None


def deliver_times(client: Any, run_id: str, times: Path) -> int:
    """Send a training's seconds (time/*) to the run. Returns the number of new points."""
    return Curves(client, run_id).deliver(read_curves(times))


def deliver_training(client: Any, run_id: str, training: Path) -> int:
    """Send curves.jsonl and, once, samples of rollouts. Returns the number of new points."""
    sent = Curves(client, run_id).deliver(read_curves(training / "curves.jsonl"))
    rollouts = training / "rollouts.parquet"
    present = {item.path for item in client.list_artifacts(run_id)}
    if rollouts.is_file() and "rollouts.json" not in present:
        table = pd.read_parquet(rollouts)
        # The first and the last groups show the effect of training.
        if len(table) > ROLLOUTS_SHOWN:
            half = ROLLOUTS_SHOWN // 2
            table = pd.concat([table.head(half), table.tail(half)])
        client.log_table(run_id, table, "rollouts.json")
    return sent


def continued_run(client: Any, state: Path, description: Description) -> str | None:
    """The run that `state` names, set RUNNING, if its recipe is the same; else None."""
    kept = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    if "run_id" not in kept or kept.get("fingerprint") != description.fingerprint():
        return None
    return _resume_run(client, kept["run_id"])


def end_replaced_run(client: Any, state: Path) -> None:
    """End the run that `state` names if it is RUNNING: another recipe takes its place."""
    from mlflow.exceptions import MlflowException

    kept = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    if "run_id" not in kept:
        return
    try:
        if client.get_run(kept["run_id"]).info.status == "RUNNING":
            trained = "content_hash" in kept  # only its final status did not reach the store
            client.set_terminated(kept["run_id"], "FINISHED" if trained else "KILLED")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _resume_run(client: Any, run_id: str) -> str | None:
    """Set the run RUNNING. Returns its id, or None if this store has no such run."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id
