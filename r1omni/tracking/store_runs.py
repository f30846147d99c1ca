"""A training's run in MLflow's store: created, described, found again, and brought up to date."""

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
# MLflow's own bounds.
PARAM_LENGTH = 6000
PARAMS_AT_ONCE = 100
TOKEN = "r1omni_token"  # a tag that finds the run whose creation was interrupted


@dataclass(frozen=True)
class Description:
    """What a run says about itself before the first step."""

    stage: str
    params: Mapping[str, Any]
    datasets: Sequence[Path]
    tags: Mapping[str, str]
    machine: Mapping[str, Any] = field(default_factory=dict)  # params that decide no result

    def fingerprint(self) -> str:
        """Equal for two trainings that would give the same numbers."""
        data = [(dataset_name(path), file_hash(path)) for path in self.datasets]
        return fingerprint(self.stage, self.params, data, self.tags)


def create_run(
    client: Any, experiment: str, description: Description, extra: Mapping[str, str] | None = None
) -> str:
    """The id of a new run that has its name, tags, params and dataset inputs."""
    tags = {
        "stage": description.stage,
        "mlflow.source.name": f"r1omni {description.stage}",
        **code_tags(),
        **description.tags,
        **(extra or {}),
    }
    run = client.create_run(experiment, tags=tags, run_name=description.stage)
    run_id = str(run.info.run_id)
    describe_run(client, run_id, description)
    return run_id


def tag_run(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set the tags of a run that stands already."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def describe_run(client: Any, run_id: str, description: Description) -> None:
    """Write a run's params and dataset inputs, as far as it lacks them."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    values = [*flatten(description.params), *flatten(description.machine)]
    params = [Param(k, v[:PARAM_LENGTH]) for k, v in values if k not in known]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
    if description.datasets:
        client.log_inputs(run_id, dataset_inputs(description.datasets))


def owed_run(client: Any, state: Path, digest: str) -> str | None:
    """The run that trained the checkpoint of this content and could not be completed, or None."""
    if not state.is_file():
        return None
    kept = json.loads(state.read_text(encoding="utf-8"))
    if kept.get("content_hash") != digest or "run_id" not in kept:
        return None
    return _revived(client, kept["run_id"])


def owed_times(state: Path, digest: str) -> Path | None:
    """Where a training left its seconds (time/*) that the store may lack; None if none are owed.

    They are in no output of the stage. `digest`: the checkpoint's content; only the training that
    made it is meant.
    """
    kept = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    times = state.with_name(state.name.removesuffix(".run.json")) / "times.jsonl"
    return times if kept.get("content_hash") == digest and times.is_file() else None


def deliver_times(client: Any, run_id: str, times: Path) -> int:
    """How many points of a training's seconds the run still lacked."""
    return Curves(client, run_id).deliver(read_curves(times))


def deliver_training(client: Any, run_id: str, training: Path) -> int:
    """How many points of curves.jsonl the run still lacked; rollout samples are added once."""
    sent = Curves(client, run_id).deliver(read_curves(training / "curves.jsonl"))
    rollouts = training / "rollouts.parquet"
    present = {item.path for item in client.list_artifacts(run_id)}
    if rollouts.is_file() and "rollouts.json" not in present:
        table = pd.read_parquet(rollouts)
        # Whole groups, first and last ones, so that one sees what training has changed.
        if len(table) > ROLLOUTS_SHOWN:
            half = ROLLOUTS_SHOWN // 2
            table = pd.concat([table.head(half), table.tail(half)])
        client.log_table(run_id, table, "rollouts.json")
    return sent


def continued_run(
    client: Any, experiment: str, state: Path, description: Description
) -> str | None:
    """The run of the same recipe that `state` names, open again; None if there is none."""
    if not state.is_file():
        return None
    kept = json.loads(state.read_text(encoding="utf-8"))
    if kept.get("fingerprint") != description.fingerprint():
        return None
    run_id = _begun(client, experiment, kept)
    if run_id is None:
        return None
    if "run_id" not in kept:  # killed while the run was being created
        describe_run(client, run_id, description)
    return _revived(client, run_id)


def give_up_run(client: Any, experiment: str, state: Path) -> None:
    """End the run that `state` names, of a recipe that is not continued, if it is still running."""
    from mlflow.exceptions import MlflowException

    kept = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    try:
        run_id = _begun(client, experiment, kept)
        if run_id is not None and client.get_run(run_id).info.status == "RUNNING":
            trained = "content_hash" in kept  # only its end did not reach the store
            client.set_terminated(run_id, "FINISHED" if trained else "KILLED")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _begun(client: Any, experiment: str, kept: Mapping[str, str]) -> str | None:
    """The id of the run that a state file names, by its token if its creation was interrupted."""
    if "run_id" in kept or "token" not in kept:
        return kept.get("run_id")
    begun = client.search_runs([experiment], f"tags.{TOKEN} = '{kept['token']}'")
    return str(begun[0].info.run_id) if begun else None


def _revived(client: Any, run_id: str) -> str | None:
    """The run, open again; None if the store is another one, or new, and has no such run."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id
