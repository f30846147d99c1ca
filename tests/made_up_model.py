"""The outputs of the stages before `register` for one model, without a training."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from r1omni.corpora.clip import Clip
from r1omni.evaluation.held_out import write_held_out
from r1omni.evaluation.predictions import Prediction, TableMetadata
from r1omni.tracking.provenance import MeasuredSet


def write_model(
    project: Path,
    name: str,
    *,
    weights: bytes = b"w" * 1000,
    war: float = 0.5,
    right: int = 60,
    n: int = 100,
    sha256: str = "",
) -> dict[str, Any]:
    """The paths and test sets that `run_register` takes; the files lie in the project's data/."""
    checkpoint = project / "data" / "checkpoints" / name
    training = project / "data" / "training" / name
    for folder in (checkpoint, training):
        folder.mkdir(parents=True, exist_ok=True)
    (checkpoint / "model.safetensors").unlink(missing_ok=True)  # as DVC does before a stage
    (checkpoint / "model.safetensors").write_bytes(weights)
    provenance: dict[str, Any] = {"stage": name, "mode": "reasoned", "fold": 1, "seed": 7}
    provenance |= {"params": {"grpo": {"lr": 0.1}}, "parent": None, "trained_on": {"dfew": 2}}
    provenance |= {"code": "c0de", "params_hash": "5a5a", "parameters": {"total": 1034567}}
    provenance |= {"data": {"dfew": {"data": "synthetic", "shortcut": 0.5}}}
    (checkpoint / "provenance.json").write_text(json.dumps(provenance))
    rows = [{"step": step, "train/loss": 1.0 / step} for step in range(1, 41)]
    (training / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rollouts = {"step": [1, 1], "completion": ["a", "b"], "reward": [0.0, 2.0]}
    pd.DataFrame(rollouts).to_parquet(training / "rollouts.parquet")
    predictions = project / "data" / "predictions" / f"{name}.parquet"
    predictions.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"clip_id": ["dfew/1"]}).to_parquet(predictions)
    held_out = project / "data" / "held_out" / f"{name}.parquet"
    metrics = project / "data" / "reports" / "metrics.json"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    values = {"war": war, "uar": 0.4, "war_ci": [0.3, 0.6], "uar_ci": [0.2, 0.5], "n": 480}
    values |= {"format_rate": 0.9, "recall": {"happy": 0.7}}
    metrics.write_text(json.dumps({name: {"ravdess": values}}))
    return {
        "checkpoint": checkpoint,
        "metrics": metrics,
        "training": training,
        "predictions": predictions,
        "held_out": held_out_table(held_out, name, right, n, sha256),
        "receipt": project / "data" / "registry" / f"{name}.json",
        "test_sets": [MeasuredSet("ravdess", "5e7" * 20, 480, Path("data/manifests/ravdess"))],
    }


def held_out_table(path: Path, model: str, right: int, n: int, sha256: str = "") -> Path:
    """The model's answers to `n` held-out clips, of which the first `right` are right."""
    clips, rows = [], []
    for number in range(n):
        clip_id, label = f"dfew/{number:03d}", ("happy", "sad")[number % 2]
        clips.append(
            Clip(clip_id, "dfew", f"{number}.mp4", label, "train", 1, None, None, 1.0, 8.0, 8,
                 True, sha256 or clip_id)
        )  # fmt: skip
        answer = label if number < right else "fear"
        rows.append(
            Prediction(model, "dfew", clip_id, 1, "train", label, "direct", answer, True, 2, -0.5,
                       None, answer, answer, False)
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_held_out(rows, clips, path, TableMetadata({}, None, labels={"dfew": ("happy", "sad")}))
    return path
