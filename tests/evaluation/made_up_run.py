"""A small made-up run: predictions of four models, side files, curves, rollouts, a sheet.

Made by code from seeds; `write_run` writes what the stages before score and report would.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from known_labels import LABELS
from matplotlib.figure import Figure

from r1omni.completions import render
from r1omni.config import ReportParams, ScoreParams
from r1omni.corpora.synthetic.attributes import LEVELS, draw_latent
from r1omni.corpora.synthetic.texts import rationale
from r1omni.evaluation.predictions import Prediction, TableMetadata, write_predictions
from r1omni.judging import judge
from r1omni.lineage import Lineage, Origin
from r1omni.prompts import AnswerMode

SCORE = ScoreParams(bootstrap_samples=300, confidence=0.95, seed=1, wheels=None)
REPORT = ReportParams(cards_per_label=1, rollout_groups=4)
MODES: dict[str, AnswerMode] = {
    "base": "direct", "cold_start": "reasoned", "label_sft": "direct", "grpo": "reasoned",
}  # fmt: skip
ACCURACY = {"base": 0.1, "cold_start": 0.45, "label_sft": 0.6, "grpo": 0.68}
RENDERED = Origin("synthetic", shortcut=0.5, seed=1)
SYNTHETIC = TableMetadata(
    {"dfew": RENDERED, "mafw": RENDERED, "ravdess": Origin("synthetic", shortcut=0.0, seed=1)},
    Lineage({"generic": RENDERED}, 1_034_567, 700_000, 1, None, "c0dec0dec0de", "5a5a5a5a5a5a"),
    labels=LABELS,
)
ATTACK = "<script>alert('happy')</script>"


@dataclass(frozen=True)
class Run:
    """Where the made-up run lies."""

    predictions: list[Path]
    truth: list[Path]
    training: Path
    sheets: list[Path]


def make_row(completion: str, label: str = "happy", **changes: object) -> Prediction:
    """A prediction with all but the named fields filled in, judged from its completion."""
    mode: AnswerMode = "direct" if changes.get("mode") == "direct" else "reasoned"
    judged = judge(completion, mode)
    row = Prediction(
        model="grpo", corpus="dfew", clip_id="dfew/1", fold=1, split="test", label=label,
        mode=mode, completion=completion, finished=True, n_tokens=8, logprob=-1.5,
        rationale=judged.rationale, answer=judged.answer, prediction=judged.prediction,
        silent=False,
    )  # fmt: skip
    return replace(row, **changes)


def write_run(folder: Path) -> Run:
    """Write everything into `folder`."""
    latents = _write_truth(folder)
    predictions = [_write_answers(folder, model, latents) for model in MODES]
    _write_curves(folder / "training")
    _write_rollouts(folder / "training/grpo/rollouts.parquet", latents)
    figure = Figure(figsize=(4, 2))
    figure.subplots().imshow(np.arange(12).reshape(3, 4))
    figure.savefig(folder / "dfew.png")
    truth = [folder / f"truth/{corpus}.parquet" for corpus in LABELS]
    return Run(predictions, truth, folder / "training", [folder / "dfew.png"])


def _write_truth(folder: Path) -> dict[str, dict[str, tuple[str, dict[str, int]]]]:
    """corpus -> clip id -> (label, levels); the side files are written on the way."""
    rng = np.random.default_rng(0)
    latents: dict[str, dict[str, tuple[str, dict[str, int]]]] = {}
    (folder / "truth").mkdir()
    for corpus, labels in LABELS.items():
        rows = []
        for i in range(10 * len(labels)):
            label = labels[i % len(labels)]
            latent = draw_latent(label, rng, noise=0.2, shortcut=0.5)
            clip_id = f"{corpus}/{i:03d}"
            latents.setdefault(corpus, {})[clip_id] = (label, dict(latent.levels))
            rows.append(
                {"clip_id": clip_id, "emotion": label, "label": label, "scene": latent.scene,
                 "speaker": latent.speaker, **latent.levels}
            )  # fmt: skip
        pd.DataFrame(rows).to_parquet(folder / f"truth/{corpus}.parquet")
    return latents


def _write_answers(folder: Path, model: str, latents: dict) -> Path:
    rng = np.random.default_rng(len(model))
    rows = []
    for corpus, clips in latents.items():
        for clip_id, (label, levels) in clips.items():
            right = rng.random() < ACCURACY[model] * (0.8 if corpus == "ravdess" else 1)
            answer = label if right else str(rng.choice([*LABELS[corpus], "ecstatic"]))
            completion = answer
            if MODES[model] == "reasoned":
                seen = {
                    k: v if rng.random() < 0.8 else int(rng.choice(LEVELS))
                    for k, v in levels.items()
                }
                completion = render(rationale(seen, rng), answer)
                if rng.random() < 0.05:
                    completion += ATTACK
            said = judge(completion, MODES[model])
            rows.append(
                Prediction(
                    model=model, corpus=corpus, clip_id=clip_id,
                    fold=None if corpus == "ravdess" else 1, split="test", label=label,
                    mode=MODES[model], completion=completion, finished=bool(rng.random() < 0.98),
                    n_tokens=len(completion) // 4, logprob=-float(rng.random()),
                    rationale=said.rationale, answer=said.answer, prediction=said.prediction,
                    silent=False,
                )
            )  # fmt: skip
    path = folder / f"{model}.parquet"
    write_predictions(rows, path, SYNTHETIC)
    return path


def _write_curves(training: Path, steps: int = 120) -> None:
    rng = np.random.default_rng(3)
    done = np.linspace(0, 1, steps)
    shapes = {
        "reward/accuracy": 0.4 + 0.3 * done, "reward/format": 0.9 + 0.09 * done,
        "train/kl": 0.2 * done**2, "rollout/completion_length": 24 - 3 * done,
        "rollout/zero_variance_groups": 0.13 + 0.45 * done, "rollout/entropy": 0.8 - 0.5 * done,
        "optim/grad_norm": 1.2 - 0.6 * done, "train/loss": 0.01 * done,
    }  # fmt: skip
    for stage in MODES:
        keys = shapes if stage == "grpo" else ["train/loss"]
        (training / stage).mkdir(parents=True)
        with (training / stage / "curves.jsonl").open("w") as file:
            for i in range(steps):
                noise = 1 + 0.1 * rng.standard_normal()
                sft_loss = 3 * np.exp(-4 * done[i]) + 0.4
                clean = {k: shapes[k][i] if stage == "grpo" else sft_loss for k in keys}
                values = {k: float(v * noise) for k, v in clean.items()}
                file.write(json.dumps({"step": i + 1, **values}) + "\n")


def _write_rollouts(path: Path, latents: dict) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for step in (1, 2, 119, 120):
        for clip_id, (label, levels) in list(latents["dfew"].items())[:2]:
            answers = rng.choice([label, "sad", f"{label}{ATTACK}"], size=4)
            accuracy = np.array([float(a == label) for a in answers])
            spread = accuracy.std(ddof=1)
            for g, answer in enumerate(answers):
                rows.append(
                    {"step": step, "clip_id": clip_id, "label": label, "prompt": "Which emotion?",
                     "group": g, "completion": render(rationale(levels, rng), str(answer)),
                     "reward": accuracy[g] + 1, "accuracy": accuracy[g], "format": 1.0,
                     "advantage": (accuracy[g] - accuracy.mean()) / (spread + 1e-4),
                     "n_tokens": 20, "finished": bool(g)}
                )  # fmt: skip
    pd.DataFrame(rows).to_parquet(path)
