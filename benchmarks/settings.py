"""Settings judged by 400 training clips of DFEW and 400 of MAFW that the tried training never sees.

    python -m benchmarks.settings --label-sft lr=5e-4 balance=0.5
    python -m benchmarks.settings --cold-start epochs=9 seed=2 --grpo seed=2 lr=3e-4

Values that are not given are params.yaml's. Starts from this project's data/checkpoints/base
(after `make repro`), trains in one process in a temporary folder, answers the clips by greedy
decoding, and adds a row to benchmarks/settings.json and benchmarks/SETTINGS.md. It reads no test
clip, and nothing of RAVDESS.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.seeds import write
from r1omni.config import Params
from r1omni.corpora.clip import read_manifest
from r1omni.evaluation import metrics
from r1omni.evaluation.predict import predict_clips
from r1omni.machine.state_folders import TrainingPaths
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_store import FeatureStore
from r1omni.params_file import read_params
from r1omni.training.grpo import run_grpo
from r1omni.training.sft import run_sft

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
HERE = Path(__file__).parent
WILD = ("dfew", "mafw")
REASONING = DATA / "manifests/reasoning.parquet"
HELD, HELD_SEED = 400, 7
Row = dict[str, Any]


def main() -> None:
    """Train and judge one setting; or only write the table again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for stage in ("cold-start", "label-sft", "grpo"):
        parser.add_argument(f"--{stage}", nargs="*", metavar="KEY=VALUE")
    arguments = vars(parser.parse_args())
    tried = {s: values_of(given) for s, given in arguments.items() if given is not None}
    file = HERE / "settings.json"
    rows: list[Row] = json.loads(file.read_text()) if file.is_file() else []
    if tried:
        if ("label_sft" in tried) == ("cold_start" in tried):
            parser.error("give --label-sft, or --cold-start with or without --grpo")
        rows.append(judge(tried))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    write(file, json.dumps(rows, indent=1) + "\n")
    write(HERE / "SETTINGS.md", render(rows))


def values_of(given: list[str]) -> dict[str, Any]:
    """["lr=5e-4", "epochs=3"] -> {"lr": 0.0005, "epochs": 3}."""
    pairs = [text.split("=", 1) for text in given]
    return {key: float(v) if "e" in v else yaml.safe_load(v) for key, v in pairs}


def judge(tried: dict[str, dict[str, Any]]) -> Row:
    """Train the stages of one try on what is not held out, and answer what is."""
    params = params_with(tried)
    features = [DATA / "features" / corpus for corpus in WILD]
    with tempfile.TemporaryDirectory() as folder:
        manifests = [hold_out(corpus, Path(folder)) for corpus in WILD]
        checkpoint = DATA / "checkpoints/base"
        for stage in tried:
            paths = TrainingPaths(*(Path(folder) / stage / part for part in ("c", "t", "s")))
            sft = {
                "paths": paths,
                "engine": params.engine,
                "machine": params.machine,
                "log": silent,
            }
            if stage == "grpo":
                run_grpo(
                    checkpoint, manifests, features, grpo=params.grpo,
                    held_out=params.held_out, **sft,
                )  # fmt: skip
            elif stage == "cold_start":
                learned = [DATA / "features/reasoning"]
                run_sft(
                    checkpoint, [REASONING], learned, mode="reasoned", sft=params.cold_start, **sft
                )
            else:
                run_sft(checkpoint, manifests, features, mode="direct", sft=params.label_sft, **sft)
            checkpoint = paths.checkpoint
        return {"tried": tried, **answers(checkpoint, manifests, features, params)}


def silent(_step: int, _metrics: dict[str, float]) -> None:
    """No curves."""


def params_with(tried: dict[str, dict[str, Any]]) -> Params:
    """params.yaml with a try's values, one process, and no clips set aside but ours."""
    values = read_params(ROOT / "params.yaml").model_dump(mode="json")
    changes = {**tried, "machine": {"processes": 1}, "held_out": {"clips": 0}}
    for section, change in changes.items():
        unknown = change.keys() - values[section].keys()
        if unknown:
            raise SystemExit(f"params.yaml has no {section}.{unknown.pop()}")
        values[section] |= change
    return Params.model_validate(values)


def hold_out(corpus: str, folder: Path) -> Path:
    """A copy of a corpus's manifest in which the held-out training clips are the test clips."""
    table = pd.read_parquet(DATA / f"manifests/{corpus}.parquet")
    table = table[table["split"] == "train"].copy()
    chosen = np.random.default_rng(HELD_SEED).permutation(len(table))[:HELD]
    split = table["split"].to_numpy().copy()
    split[chosen] = "test"
    table["split"] = split
    table.to_parquet(folder / f"{corpus}.parquet", index=False)
    return folder / f"{corpus}.parquet"


def answers(
    checkpoint: Path, manifests: list[Path], features: list[Path], params: Params
) -> dict[str, dict[str, float]]:
    """WAR and UAR in percent for each corpus's held-out clips."""
    model = HumanOmniForConditionalGeneration.from_pretrained(checkpoint).eval()
    processor = HumanOmniProcessor.from_pretrained(checkpoint)
    store, found = FeatureStore(features), {}
    for manifest in manifests:
        clips = [clip for clip in read_manifest(manifest) if clip.split == "test"]
        said = predict_clips(
            "tried", model, processor, clips, store, predict=params.predict, batch_size=64
        )
        told, given = [row.label for row in said], [row.prediction for row in said]
        rates = {"war": metrics.war(told, given), "uar": metrics.uar(told, given)}
        found[manifest.stem] = {name: round(100 * rate, 1) for name, rate in rates.items()}
    return found


def mean(row: Row) -> float:
    """What settings are compared by: the mean of WAR and UAR over both corpora."""
    return float(np.mean([row[corpus][rate] for corpus in WILD for rate in ("war", "uar")]))


def render(rows: list[Row]) -> str:
    """A table per stage that was tried last, in the order of the tries."""
    about = (
        f"Percent on {HELD} training clips of the DFEW-like and {HELD} of the MAFW-like set that "
        "the tried training never saw (standard error of a WAR about 2.3); greedy decoding, "
        "shortcut strength 0.5, one process. Written by `python -m benchmarks.settings`; what a "
        "row does not name is params.yaml's. Mean: of the row's four numbers, what settings are "
        "compared by."
    )
    lines = ["# Settings on held-out clips", "", about]
    for stage in ("label_sft", "cold_start", "grpo"):
        of_stage = [row for row in rows if list(row["tried"])[-1] == stage]
        lines += ["", f"## {stage}", "", "| tried | DFEW WAR / UAR | MAFW WAR / UAR | mean |"]
        lines += ["|---|--:|--:|--:|"]
        for row in of_stage:
            cells = " | ".join(f"{row[c]['war']:.1f} / {row[c]['uar']:.1f}" for c in WILD)
            lines.append(f"| {named(row['tried'])} | {cells} | {mean(row):.1f} |")
    return "\n".join(lines) + "\n"


def named(tried: dict[str, dict[str, Any]]) -> str:
    """{"label_sft": {"lr": 0.001}} -> "lr 0.001"; of two stages, with the stages' names."""
    told = {s: ", ".join(f"{k} {v:g}" for k, v in values.items()) for s, values in tried.items()}
    return "; ".join(t if len(told) == 1 else f"{s}: {t}" for s, t in told.items())


if __name__ == "__main__":
    main()
