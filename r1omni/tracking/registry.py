"""The registry: every checkpoint once, by its content hash, with its provenance."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1omni.config import TrackingParams
from r1omni.lineage import DATA_TEXT, PROVENANCE, Data, read_provenance, size_text
from r1omni.tracking.artifacts import store_files
from r1omni.tracking.measurements import log_evaluation, numbers_first, read_evaluation
from r1omni.tracking.mlflow_model import logged_model
from r1omni.tracking.provenance import (
    MeasuredSet,
    check_content,
    code_tags,
    content_hash,
    held_out_note,
    lineage_tags,
    measured_inputs,
)
from r1omni.tracking.store import (
    has_store,
    local_path,
    locked,
    open_client,
    resolve_uri,
    translate_store_errors,
)
from r1omni.tracking.store_runs import (
    Description,
    create_run,
    deliver_times,
    deliver_training,
    tag_run,
    undelivered_times,
    unfinished_run,
)

CHECKPOINT = "checkpoint"
HELD_OUT = "held_out"  # the folder of the held-out predictions, and the tag with their digest

VERSION_TAGS = ("model", "seed", "data", "content_hash")  # the run has all of them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """The output of `register`: the content hash and the registered model that has it.

    It is the same on every machine. A version's number and run belong to one registry, where
    `registered_version` finds them by the content hash.
    """

    model: str
    registered_model: str
    content_hash: str


def run_register(
    checkpoint: Path,
    metrics: Path,
    training: Path,
    predictions: Path,
    held_out: Path,
    receipt: Path,
    *,
    name: str,
    test_sets: Sequence[MeasuredSet],
    tracking: TrackingParams,
    state: Path | None = None,
    documents: Path | None = None,
    audited: Mapping[str, float] | None = None,
) -> None:
    """Register the checkpoint and write the receipt (JSON) of its model version; a leaf stage.

    `name`: base, cold_start, label_sft or grpo. `test_sets`: what the metrics were measured on.
    All are versions of the one registered model `tracking.registered_model`, so the registry's
    compare page can show them side by side. The same content is the same version, however often it
    is registered. No alias moves here.
    If the store was unreachable during the training, the missing points and seconds are sent first,
    to the run that `state` names, if there is one. Each point is in the store once.
    The files of the folder `documents` (model card, BOM) are stored beside the checkpoint's folder.
    `audited`: what else was measured of it, as metrics by name.
    Raises StoreUnreachable; ValueError for an invalid checkpoint, invalid metrics or predictions.
    """
    note = held_out_note(held_out)
    digest = note.pop("digest")
    evaluation = dict(read_evaluation(metrics, name))
    evaluation |= {f"eval/{HELD_OUT}/{key}": value for key, value in note.items()}
    evaluation |= audited or {}
    measured = [*test_sets, MeasuredSet(HELD_OUT, digest, int(note["n"]), held_out)]
    tags = _provenance(checkpoint, name) | {"content_hash": content_hash(checkpoint)}
    client, experiment = open_client(tracking)
    times = undelivered_times(state, tags["content_hash"]) if state is not None else None
    with locked(tracking.uri), translate_store_errors(tracking.uri):
        version = find_content(client, tracking.registered_model, tags["content_hash"])
        run_id = (
            version.run_id
            if version
            else _training_run(client, experiment, tags, _params_of(checkpoint), state)
        )
        deliver_training(client, run_id, training)
        if times is not None:
            deliver_times(client, run_id, times)
        tag_run(client, run_id, lineage_tags(checkpoint))
        artifacts = client.get_run(run_id).info.artifact_uri
        store_files(client, artifacts, predictions, "predictions")
        store_files(client, artifacts, held_out, HELD_OUT)
        model = logged_model(client, experiment, run_id, tags)
        if version is None or local_path(model.artifact_location) is not None:
            store_files(client, model.artifact_location, checkpoint, CHECKPOINT)
        if documents is not None:
            store_files(client, model.artifact_location, documents, "")
        client.log_inputs(run_id, measured_inputs(measured))
        log_evaluation(client, run_id, evaluation, model.model_id, measured)
        if version is None:
            version = _create_version(client, tracking.registered_model, model, tags)
        about = f"{numbers_first(evaluation)} · {_description(tags)}"
        client.update_model_version(version.name, version.version, about)
        client.set_model_version_tag(version.name, version.version, HELD_OUT, digest)
    write_receipt(receipt, Receipt(name, version.name, tags["content_hash"]))


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Write the receipt as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(receipt), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_receipt(path: Path) -> Receipt:
    """The receipt at `path`. Raises ValueError, naming the file, for anything else."""
    try:
        return Receipt(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected a receipt of `r1omni register`: {error}") from error


def model_directory(uri: str, tracking: TrackingParams) -> Path:
    """The folder of a registered checkpoint, ready for `from_pretrained`.

    `uri`: "models:/name@alias" or "models:/name/version". Creates no store to look in.
    Raises ValueError for any other form, for a version that does not exist, and for one whose files
    differ from those that were registered; StoreUnreachable.
    """
    if not has_store(tracking.uri):
        raise ValueError(
            f"{uri}: nothing is registered here: there is no {resolve_uri(tracking.uri)}. "
            "`r1omni repro` registers what it trains; MLFLOW_TRACKING_URI names another store"
        )
    from mlflow.artifacts import download_artifacts

    client, _ = open_client(tracking)
    version = find_model_version(client, uri)
    folder = local_path(version.source)
    if folder is None:
        with translate_store_errors(tracking.uri):
            folder = Path(
                download_artifacts(artifact_uri=version.source, tracking_uri=tracking.uri)
            )
    if not folder.is_dir():
        raise ValueError(f"{uri}: its files should be in {folder}, which does not exist")
    inner = folder / CHECKPOINT
    folder = inner if inner.is_dir() else folder  # a version of before MLmodel has no such folder
    check_content(uri, folder, version.tags.get("content_hash"))
    return folder


def registered_version(client: Any, receipt: Receipt) -> Any:
    """The MLflow ModelVersion of the receipt's content. Raises ValueError if there is none here."""
    found = find_content(client, receipt.registered_model, receipt.content_hash)
    if found is None:
        name = receipt.model
        raise ValueError(
            f"{name} ({receipt.registered_model}, content {receipt.content_hash[:12]}) is not "
            f"registered here; run `dvc repro --force --single-item register@{name}`"
        )
    return found


def find_here(tracking: TrackingParams, model: str, digest: str) -> Any:
    """The MLflow ModelVersion with this content hash and its run; None without one.

    Creates no store to look in. Raises StoreUnreachable.
    """
    if not has_store(tracking.uri):
        return None
    client, _ = open_client(tracking)
    with translate_store_errors(tracking.uri):
        version = find_content(client, model, digest)
        return None if version is None else (version, client.get_run(version.run_id))


def find_model_version(client: Any, uri: str) -> Any:
    """The MLflow ModelVersion that `uri` names. Raises ValueError if there is none."""
    from mlflow.exceptions import MlflowException

    name, at, alias = uri.removeprefix("models:/").partition("@")
    plain, _, number = name.rpartition("/")
    if not uri.startswith("models:/") or (not at and not (plain and number.isdecimal())):
        raise ValueError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    try:
        if at:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(plain, number)
    except MlflowException as error:
        raise ValueError(f"{uri}: not in the registry: {error}") from error


def find_content(client: Any, model: str, digest: str) -> Any:
    """The MLflow ModelVersion with this content hash, or None."""
    found = client.search_model_versions(f"name = '{model}' and tags.content_hash = '{digest}'")
    # Older versions are a checkpoint's folder alone, which MLflow cannot load.
    models = [version for version in found if not version.source.endswith(f"/{CHECKPOINT}")]
    return min(models, key=lambda version: int(version.version), default=None)


def _training_run(
    client: Any,
    experiment: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    state: Path | None,
) -> str:
    """The run that trained this content; a new one if the store has none."""
    digest = tags["content_hash"]
    found = client.search_runs(
        [experiment], f"tags.content_hash = '{digest}'", max_results=1, order_by=["start_time DESC"]
    )
    if found:
        trained_by = str(found[0].info.run_id)
        if found[0].info.status == "RUNNING":  # the store was unreachable when the stage ended
            client.set_terminated(trained_by)
        return trained_by
    run_id = unfinished_run(client, state, digest) if state is not None else None
    if run_id is not None and state is not None:
        client.set_tag(run_id, "content_hash", digest)
        state.unlink()
    else:
        run_id = create_run(client, experiment, Description(tags["model"], params, (), tags))
    client.set_terminated(run_id)
    return run_id


def _create_version(client: Any, registered: str, model: Any, tags: Mapping[str, str]) -> Any:
    if not client.search_registered_models(f"name = '{registered}'", max_results=1):
        client.create_registered_model(
            registered, description="base, cold_start, label_sft and grpo"
        )
    return client.create_model_version(
        registered,
        model.artifact_location,
        model.source_run_id,
        tags={key: tags[key] for key in VERSION_TAGS if key in tags},
        model_id=model.model_id,
    )


def _description(tags: Mapping[str, str]) -> str:
    """A version's description in the registry: data, size, seed, code and commit."""
    data: Data = tags["data"]  # type: ignore[assignment]
    parts = [
        f"{tags['model']}, answers {tags.get('mode', 'as it was made')}",
        "training data not recorded" if data == "unknown" else f"trained on {DATA_TEXT[data]}",
    ]
    if "parameters" in tags:
        parts.append(f"{size_text(int(tags['parameters']))} parameters")
    for key, word in (("seed", "seed"), ("code", "code"), ("params_hash", "params")):
        if key in tags:
            parts.append(f"{word} {tags[key]}")
    if commit := tags.get("mlflow.source.git.commit"):
        parts.append(f"commit {commit[:12]}" + " (dirty)" * (tags.get("git.dirty") == "true"))
    return " · ".join([*parts, f"registered {time.strftime('%Y-%m-%d')}"])


def _provenance(checkpoint: Path, name: str) -> dict[str, str]:
    """Tags of run and version, from provenance.json and from git."""
    kept = read_provenance(checkpoint)
    if kept is None:
        raise ValueError(f"{checkpoint}: has no {PROVENANCE}; expected the checkpoint of a stage")
    tags = {"model": name, **code_tags()}
    for key in ("stage", "mode", "fold"):
        if kept.get(key) is not None:
            tags[key] = str(kept[key])
    tags |= lineage_tags(checkpoint)
    return tags


def _params_of(checkpoint: Path) -> dict[str, Any]:
    return dict((read_provenance(checkpoint) or {}).get("params") or {})
