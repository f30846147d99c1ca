"""The files by which MLflow knows a checkpoint as a model: MLmodel, signature, requirements.

The checkpoint's own files lie beside them, in checkpoint/, by reference (artifacts.py).
"""

import platform
import re
from collections.abc import Mapping
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from r1omni.tracking.artifacts import store_files

LOADER = "r1omni.inference.served"
EXAMPLE = {"path": "talk.mp4", "bytes": None}


def logged_model(client: Any, experiment: str, run_id: str, tags: Mapping[str, str]) -> Any:
    """MLflow's LoggedModel of the content, with MLmodel, but without the checkpoint's files.

    `tags`: those of the version, with model and content_hash.
    """
    digest = tags["content_hash"]
    found = client.search_logged_models(
        [experiment], f"tags.content_hash = '{digest}'", max_results=1
    )
    model = (
        found[0]
        if found
        else client.create_logged_model(experiment, tags["model"], run_id, {"content_hash": digest})
    )
    if model.status != "READY":  # new, or `register` was killed
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _write_mlmodel(folder, digest, model.model_id, run_id)
            store_files(client, model.artifact_location, folder, "")
        client.finalize_logged_model(model.model_id, "READY")
    return model


def _write_mlmodel(folder: Path, digest: str, model_id: str, run_id: str) -> None:
    """Write MLmodel and what belongs to it into the folder, which must not exist yet.

    `digest`: the checkpoint's content hash, which the loader checks. The environment is this one's:
    the installed versions of r1omni's direct dependencies.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model

    pyfunc.save_model(
        folder,
        loader_module=LOADER,
        mlflow_model=Model(model_id=model_id, run_id=run_id, artifact_path=""),
        signature=_signature(),
        input_example=pd.DataFrame([EXAMPLE]),
        pip_requirements=_requirements(),
        model_config={"content_hash": digest},
        metadata={"python": platform.python_version()},
    )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Map

    outputs: Mapping[str, Any] = {
        "file": DataType.string, "prediction": DataType.string, "answer": DataType.string,
        "rationale": DataType.string, "well_formed": DataType.boolean,
        "probabilities": Map(DataType.double), "notes": Array(DataType.string),
        "completion": DataType.string, "refused": DataType.string,
    }  # fmt: skip
    return ModelSignature(
        Schema([ColSpec(DataType.string, name, required=False) for name in EXAMPLE]),
        Schema([ColSpec(kind, name, required=False) for name, kind in outputs.items()]),
    )


def _requirements() -> list[str]:
    """r1omni and its direct dependencies, each at its installed version."""
    needed = [line for line in requires("r1omni") or () if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
    return [f"{name}=={version(name)}" for name in ("r1omni", *names)]
