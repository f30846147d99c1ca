"""A made-up project that was reproduced: three checkpoints, one corpus, one model's predictions.

Of the four test clips (happy, happy, sad, angry) GRPO names happy, happy, sad, sad: three are right
(WAR 75 %), and the recalls are 1, 1 and 0 (UAR 66.7 %).
"""

import json
from pathlib import Path
from typing import Any

import yaml
from known_labels import LABELS

from r1omni.cards.cards import run_cards
from r1omni.cards.dvc_lock import dvc_hash
from r1omni.completions import render
from r1omni.config import CorpusParams, ScoreParams
from r1omni.corpora.clip import Clip, Reject, write_manifest, write_rejects
from r1omni.evaluation.predictions import Prediction, TableMetadata, write_predictions
from r1omni.evaluation.score import run_score
from r1omni.lineage import Origin, origin_record, read_lineage

SCORE = ScoreParams(bootstrap_samples=50, confidence=0.95, seed=1, wheels=None)
RENDERED = Origin("synthetic", shortcut=0.5, seed=1)
ANSWERS = (("happy", "happy"), ("happy", "happy"), ("sad", "sad"), ("angry", "sad"))
WEIGHTS = {"base": b"base", "cold_start": b"cold", "grpo": b"grpo"}
DFEW = {"dfew": CorpusParams(adapter="dfew", root=Path("dfew"), fold=1, roles=("train", "test"))}


def make_clip(number: int, label: str, split: Any) -> Clip:
    return Clip(
        clip_id=f"dfew/{number}", corpus="dfew", path=f"Clip/original/{number}.mp4", label=label,
        split=split, fold=1, subject=None, rationale=None, duration=1.5, fps=8.0, n_frames=12,
        has_audio=True, sha256=f"{number:064d}", audio_duration=1.6,
    )  # fmt: skip


CLIPS = [
    *(make_clip(i, label, "test") for i, (label, _) in enumerate(ANSWERS)),
    make_clip(8, "sad", "train"), make_clip(9, "fear", "train"),
]  # fmt: skip


def write_checkpoints(data: Path, origin: Origin = RENDERED) -> None:
    """base -> cold_start -> grpo."""
    parent: dict[str, Any] | None = None
    for stage, weights in WEIGHTS.items():
        folder = data / "checkpoints" / stage
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text('{"model_type": "humanomni"}')
        corpora = ["generic"] if stage != "grpo" else ["dfew", "generic"]
        record = {
            "stage": stage, "mode": "direct" if stage == "base" else "reasoned",
            "fold": 1 if stage == "grpo" else None, "seed": 7, "code": "c0dec0dec0de",
            "params_hash": f"{stage}-params", "params": {"lr": 0.5, "source": "data/raw/base"},
            "parameters": {"total": 1_700_000, "language_model": 600_000},
            "data": {name: origin_record(origin) for name in corpora},
            "trained_on": {"dfew": 2} if stage == "grpo" else {}, "parent": parent,
        }  # fmt: skip
        (folder / "provenance.json").write_text(json.dumps(record))
        parent = record


def write_answers(data: Path, answers: Any = ANSWERS) -> None:
    checkpoint = data / "checkpoints/grpo"
    rows = [
        Prediction(
            model="grpo", corpus="dfew", clip_id=f"dfew/{i}", fold=1, split="test", label=label,
            mode="reasoned", completion=render("The mouth smiles.", said), finished=True,
            n_tokens=8, logprob=-1.5, rationale="The mouth smiles.", answer=said, prediction=said,
            silent=False,
        )
        for i, (label, said) in enumerate(answers)
    ]  # fmt: skip
    about = TableMetadata(
        {"dfew": RENDERED}, read_lineage(checkpoint), {"dfew": 0}, {"dfew": LABELS["dfew"]}
    )
    write_predictions(rows, data / "predictions/grpo.parquet", about)


def write_project(root: Path) -> None:
    """Everything that the stages before `cards` leave, and dvc.lock."""
    data = root / "data"
    write_checkpoints(data)
    write_manifest(CLIPS, data / "manifests/dfew.parquet", note=origin_record(RENDERED))
    reject = Reject("dfew", "10.mp4", "set_1.csv:7", "unreadable", "no picture")
    write_rejects([reject], data / "rejects/dfew.parquet")
    write_answers(data)
    predictions = [data / "predictions/grpo.parquet"]
    run_score(predictions, [], data / "reports/metrics.json", data / "plots", score=SCORE)
    (data / "validation").mkdir()
    rules = [{"text": "clips have frames", "success": True}]
    (data / "validation/summary.json").write_text(json.dumps({"rules": rules}))
    write_lock(root)


def cards_of(root: Path, audit: Path | None = None, **changes: Any) -> Path:
    """Run the stage `cards` in the project; the folder that it wrote."""
    data = root / "data"
    run_cards(
        [data / "checkpoints" / stage for stage in WEIGHTS],
        data / "reports/metrics.json",
        data / "manifests",
        data / "rejects",
        data / "validation/summary.json",
        data / "cards",
        audit,
        corpora=DFEW | changes,
    )
    return data / "cards"


def write_lock(root: Path) -> None:
    """dvc.lock as the stages would leave it."""
    outs = {
        "ingest@dfew": "data/manifests/dfew.parquet", "grpo": "data/checkpoints/grpo",
        "predict@grpo": "data/predictions/grpo.parquet", "score": "data/reports/metrics.json",
    }  # fmt: skip
    deps = {"predict@grpo": outs["grpo"], "score": outs["predict@grpo"]}
    stages = {
        stage: {
            key: [{"path": paths[stage], "md5": dvc_hash(root / paths[stage])}]
            for key, paths in (("outs", outs), ("deps", deps))
            if stage in paths
        }
        for stage in outs
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
