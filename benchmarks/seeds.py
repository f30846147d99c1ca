"""Table 1 over seeds and shortcut strengths: every row, the bad ones too.

    python benchmarks/seeds.py --seeds 1 2 3 --shortcuts 0 0.5 0.9

Each row is a DVC experiment of this commit, shortcut-S-seed-N, queued and then run with everything
else in the queue (`dvc exp run --run-all`). What rows have in common is run once. A seed is the
seed of cold start, label SFT and GRPO (their batches and samples); corpora, towers and base are the
same for all seeds. Writes benchmarks/seeds.json and the tables in docs/explanation/seeds.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/explanation/seeds.md"
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
    parser.add_argument("--jobs", type=int, default=1, help="experiments at the same time")
    parser.add_argument("--only", nargs="+", metavar="SHORTCUT/SEED", help="rows to run")
    arguments = parser.parse_args()
    rows = [(s, seed) for s in arguments.shortcuts for seed in arguments.seeds]
    wanted = [r for r in rows if arguments.only is None or f"{r[0]:g}/{r[1]}" in arguments.only]
    missing = [row for row in wanted if name_of(*row) not in finished()]
    for row in missing:
        run_dvc("exp", "run", "--queue", "--name", name_of(*row), *settings_of(*row), "score")
    if missing:
        run_dvc("exp", "run", "--run-all", "--jobs", str(arguments.jobs))
    done = finished()
    measured = {f"{s:g}/{n}": read_row(name_of(s, n)) for s, n in rows if name_of(s, n) in done}
    write(ROOT / "benchmarks/seeds.json", json.dumps(measured, indent=1, sort_keys=True) + "\n")
    tables = render(measured, arguments.shortcuts, arguments.seeds)
    write(PAGE, between_markers(PAGE.read_text(encoding="utf-8"), tables))


def run_dvc(*arguments: str) -> str:
    """What DVC, run in this project, prints."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def name_of(shortcut: float, seed: int) -> str:
    """The experiment's name. DVC forbids a dot in it: 0.5 is written 0-5."""
    return f"shortcut-{shortcut:g}-seed-{seed}".replace(".", "-")


def settings_of(shortcut: float, seed: int) -> list[str]:
    """The options of `dvc exp run` that make a row."""
    changes = [f"synthetic.corpora.{corpus}.shortcut={shortcut}" for corpus in WILD]
    changes += [f"{stage}.seed={seed}" for stage in ("cold_start", "label_sft", "grpo")]
    return [part for change in changes for part in ("--set-param", change)]


def finished() -> set[str]:
    """The names of this commit's experiments that have ended well."""
    return set(run_dvc("exp", "list", "--name-only").split())


def read_row(experiment: str) -> dict[str, dict[str, dict[str, object]]]:
    """What a row's table needs of its metrics.json."""
    import dvc.api

    metrics = json.loads(dvc.api.read(METRICS, repo=str(ROOT), rev=experiment))
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
