"""Table 1 over seeds and shortcut strengths: every row, the bad ones too.

    python benchmarks/seeds.py --seeds 1 2 3 --shortcuts 0 0.5 0.9

Each row is the pipeline itself (`dvc repro score`) in a copy of this project under .sweep/, with
other values in params.yaml and this project's DVC cache, so what rows have in common is run once.
A seed is the seed of cold start, label SFT and GRPO (their batches and samples); corpora, towers
and base are the same for all seeds. Writes benchmarks/seeds.json and the tables in
docs/explanation/seeds.md.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ROOT / ".sweep"
PAGE = ROOT / "docs/explanation/seeds.md"
LEFT_OUT = (".git", ".venv", ".sweep", ".state", ".prefect", "data", "mlartifacts", "mlflow.db*",
            "__pycache__", "tmp", "cache", ".*_cache", "config.local", "dvc.lock")  # fmt: skip
MODELS = ("base", "cold_start", "label_sft", "grpo")
CORPORA = ("dfew", "mafw", "ravdess")
WILD = ("dfew", "mafw")
METRICS = "data/reports/metrics.json"
BEGIN, END = "<!-- seeds: written by benchmarks/seeds.py -->", "<!-- /seeds -->"


def main() -> None:
    """Run every row that is not there yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--shortcuts", type=float, nargs="+", default=[0.0, 0.5, 0.9])
    parser.add_argument("--jobs", type=int, default=2, help="pipelines at the same time")
    parser.add_argument("--only", nargs="+", metavar="SHORTCUT/SEED", help="rows to run")
    arguments = parser.parse_args()
    rows = [(s, seed) for s in arguments.shortcuts for seed in arguments.seeds]
    wanted = [r for r in rows if arguments.only is None or f"{r[0]:g}/{r[1]}" in arguments.only]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda row: run_row(*row), wanted[:1]))  # what all rows share is run once
        list(pool.map(lambda row: run_row(*row), wanted[1:]))
    there = [row for row in rows if (folder_of(*row) / METRICS).is_file()]
    measured = {f"{s:g}/{seed}": read_row(s, seed) for s, seed in there}
    write(ROOT / "benchmarks/seeds.json", json.dumps(measured, indent=1, sort_keys=True) + "\n")
    tables = render(measured, arguments.shortcuts, arguments.seeds)
    write(PAGE, between_markers(PAGE.read_text(encoding="utf-8"), tables))


def folder_of(shortcut: float, seed: int) -> Path:
    """Where a row's copy of the project lies."""
    return SWEEP / f"shortcut-{shortcut:g}-seed-{seed}"


def run_row(shortcut: float, seed: int) -> None:
    """Reproduce one row's pipeline up to `score` in its own folder."""
    folder = folder_of(shortcut, seed)
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    (folder / "data/truth").mkdir(parents=True, exist_ok=True)  # as a clone has it
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for corpus in WILD:
        params["synthetic"]["corpora"][corpus]["shortcut"] = shortcut
    for stage in ("cold_start", "label_sft", "grpo"):
        params[stage]["seed"] = seed
    write(folder / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    write(
        folder / ".dvc/config.local",
        f"[core]\n    no_scm = true\n[cache]\n    dir = {ROOT / '.dvc/cache'}\n",
    )
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "sweep.log").open("a") as log:
        subprocess.run(
            ["dvc", "repro", "score"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    sys.stderr.write(f"shortcut {shortcut:g} seed {seed}: done\n")


def read_row(shortcut: float, seed: int) -> dict[str, dict[str, dict[str, object]]]:
    """What a row's table needs of its metrics.json."""
    metrics = json.loads((folder_of(shortcut, seed) / METRICS).read_text())
    wanted = ("war", "uar", "war_ci", "uar_ci", "n", "format_rate", "gain_over",
              "rationale_truth", "follows_scene")  # fmt: skip
    return {
        model: {c: {k: v for k, v in metrics[model][c].items() if k in wanted} for c in CORPORA}
        for model in MODELS
    }


def render(measured: dict, shortcuts: list[float], seeds: list[int]) -> str:
    """All rows, what each step gained, and the means over seeds, as Markdown."""
    there = [(s, seed) for s in shortcuts for seed in seeds if f"{s:g}/{seed}" in measured]
    absent = [f"{s:g}/{seed}" for s in shortcuts for seed in seeds if (s, seed) not in there]
    lines = [
        "Percent, greedy decoding, fold 1, calm kept; ± is the half-width of the 95 % bootstrap "
        "interval of WAR.",
        *([f"Not run: {', '.join(absent)}."] if absent else []),
        "",
        "| shortcut | seed | model | DFEW WAR / UAR | MAFW WAR / UAR | RAVDESS WAR / UAR |",
        "|--:|--:|---|---|---|---|",
    ]
    for s, seed in there:
        for model in MODELS:
            cells = " | ".join(cell(measured[f"{s:g}/{seed}"][model][c]) for c in CORPORA)
            lines.append(f"| {s:g} | {seed} | {model} | {cells} |")
    lines += ["", *gains(measured, there), "", *means(measured, shortcuts, there)]
    return "\n".join(lines) + "\n"


def gains(measured: dict, there: list[tuple[float, int]]) -> list[str]:
    """What each step added, in WAR / UAR points, ± half the interval of each."""
    lines = [
        "Gains, WAR / UAR ± half the paired bootstrap interval; **bold** where both intervals "
        "exclude 0, ▼ where both lie below it (never for a row that was kept without intervals):",
        "",
        "| shortcut | seed | step | DFEW | MAFW | RAVDESS |",
        "|--:|--:|---|---|---|---|",
    ]
    for s, seed in there:
        for later, earlier in (
            ("cold_start", "base"),
            ("grpo", "cold_start"),
            ("grpo", "label_sft"),
        ):
            row = measured[f"{s:g}/{seed}"][later]
            cells = " | ".join(gain(row[c]["gain_over"][earlier]) for c in CORPORA)
            lines.append(f"| {s:g} | {seed} | {earlier} → {later} | {cells} |")
    return lines


def gain(step: dict) -> str:
    """One gain, bold where the intervals of WAR and UAR both exclude 0 on the same side."""
    parts = [f"{100 * step[m]:+.1f} ± {100 * step[f'{m}_half_width']:.1f}" for m in ("war", "uar")]
    text = " / ".join(parts)
    if "war_ci" not in step or "uar_ci" not in step:  # kept from before there were intervals
        return text
    intervals = [step[f"{m}_ci"] for m in ("war", "uar")]
    if all(high < 0 for _, high in intervals):
        return f"**{text}** ▼"
    return f"**{text}**" if all(low > 0 for low, _ in intervals) else text


def means(measured: dict, shortcuts: list[float], there: list[tuple[float, int]]) -> list[str]:
    """The means over the seeds that were run, of accuracy and of what the answers follow."""
    lines = [
        "Means over the seeds: WAR with its standard deviation / UAR; on the DFEW-like set, how "
        "often the answer is the emotion of a contradicting scene, and how many statements of the "
        "rationales are true (face, voice):",
        "",
        "| shortcut | seeds | model | DFEW | MAFW | RAVDESS | follows scene | face | voice |",
        "|--:|--:|---|---|---|---|--:|--:|--:|",
    ]
    for s in shortcuts:
        ran = [measured[f"{s:g}/{seed}"] for strength, seed in there if strength == s]
        for model in MODELS if ran else ():
            rows = [row[model] for row in ran]
            cells = []
            for corpus in CORPORA:
                wars = [100 * row[corpus]["war"] for row in rows]
                spread = f" (sd {statistics.stdev(wars):.1f})" if len(wars) > 1 else ""
                uar = statistics.mean(100 * row[corpus]["uar"] for row in rows)
                cells.append(f"{statistics.mean(wars):.1f}{spread} / {uar:.1f}")
            cells.append(share([row["dfew"].get("follows_scene") for row in rows], "share"))
            truths = [row["dfew"].get("rationale_truth") for row in rows]
            cells += [share(truths, side) for side in ("face", "voice")]
            lines.append(f"| {s:g} | {len(ran)} | {model} | {' | '.join(cells)} |")
    return lines


def share(values: list[dict | None], key: str) -> str:
    """The mean of one share in percent, or nothing where it was not measured."""
    known = [v[key] for v in values if v is not None and v.get(key) is not None]
    return f"{100 * statistics.mean(known):.0f}" if known else ""


def cell(metrics: dict) -> str:
    """WAR / UAR with WAR's half-width."""
    low, high = metrics["war_ci"]
    return f"{100 * metrics['war']:.1f} ± {50 * (high - low):.1f} / {100 * metrics['uar']:.1f}"


def between_markers(document: str, tables: str) -> str:
    """The document with the tables in place of what stood between its two markers."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"{PAGE}: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables}{END}{after}"


def write(path: Path, text: str) -> None:
    """Write a text file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
