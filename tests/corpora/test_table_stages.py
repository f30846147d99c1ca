"""A table of 30 clips through the stages, by the commands of dvc.yaml, from a random tiny base."""

import json
import os
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import yaml
from clip_files import write_clip
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.evaluation.report.table1 import render_table1_text
from r1omni.evaluation.results import read_metrics

pytestmark = pytest.mark.slow

LABELS = ("happy", "sad", "angry")
NOT_MADE = [f"data/predictions/{model}.parquet" for model in ("base", "cold_start", "grpo")]


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny, repo) -> Path:
    """A folder with a table, params that list it alone, and a checkpoint as `base` writes it."""
    folder = tmp_path_factory.mktemp("table")
    rows = []
    (folder / "mine/clips").mkdir(parents=True)
    for n in range(30):
        write_clip(folder / f"mine/clips/{n:03d}.mp4", seed=n)
        split = ("train", "test")[n // 15]
        rows.append((f"clips/{n:03d}.mp4", LABELS[n % 3], split, f"It looks {LABELS[n % 3]}."))
    table = pd.DataFrame(rows, columns=["path", "label", "split", "rationale"])
    table.to_parquet(folder / "mine/clips.parquet")
    values = yaml.safe_load((repo / "params.yaml").read_text())
    roles = ["cold_start", "train", "test"]
    values["corpora"] = {"mine": {"adapter": "table", "root": "mine", "roles": roles}}
    values["held_out"]["clips"] = 3
    values["label_sft"] |= {"epochs": 1, "batch_size": 4}
    values["predict"]["max_new_tokens"] = 4
    values["score"]["bootstrap_samples"] = 20
    values["machine"]["processes"] = 1
    values["tracking"] |= {"uri": "sqlite:////proc/none.db", "system_metrics": False}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    model, processor = tiny.model, tiny.processor
    base = folder / "data/checkpoints/base"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    (base / "provenance.json").write_text(json.dumps({"stage": "base", "mode": "direct"}))
    return folder


def run(*command: str) -> None:
    """A stage's command, in this process, which has torch imported."""
    with patch.dict(os.environ):  # the training makes this process a rank
        found = CliRunner().invoke(app, [*command])
    assert found.exit_code == 0, (found.output, found.exception)


def test_a_table_trains_and_is_evaluated(project, repo, monkeypatch):
    """label_sft learns from its 12 train clips (3 are held out); score judges its 15 test clips."""
    monkeypatch.chdir(project)
    stages = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]
    for name in ("ingest", "validate", "features", "sets", "label_sft", "predict", "score"):
        stage = stages[name].get("do", stages[name])
        command = stage["cmd"].replace("${key}", "mine").replace("${item}", "label_sft")
        command = command.replace("${label_sft.start}", "base").split()
        there = [word for word in command if word not in NOT_MADE]
        run(*there[3:])
    provenance = json.loads((project / "data/checkpoints/label_sft/provenance.json").read_text())
    assert (provenance["trained_on"], provenance["fold"]) == ({"mine": 12}, None)
    metrics = json.loads((project / "data/reports/metrics.json").read_text())
    found = metrics["label_sft"]["mine"]
    assert (found["n"], found["data"], found["undecoded"]) == (15, "real", 0)
    assert found["confusion"]["rows"] == list(LABELS)
    table = render_table1_text(read_metrics(project / "data/reports/metrics.json"))
    assert "mine (n 15)" in table and "(real)" in table
