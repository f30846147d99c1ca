"""The bench's steps in two checkouts of this project, in turns on one machine.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.two_checkouts /tmp/before --rounds 2

A ratio of `make bench` depends on the processor: decoding waits for memory on one, and not on the
other. So whether a change made a step slower is told by both commits side by side. Each step runs
in a process of its own with one thread and this environment's libraries; each round begins with
the other checkout. Writes benchmarks/sections/two_checkouts.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measuring import machine
from benchmarks.results import SECTIONS

ROOT = Path(__file__).resolve().parents[1]
WAYS: Mapping[str, Sequence[str]] = {
    "textbook": ["textbook"],
    "fast": ["fast", "--steps", "2"],
    "fast, cached features": ["fast", "--cached", "--steps", "2"],
    "fast, text only": ["fast", "--text", "--steps", "2"],
    "TRL, text only": ["trl"],
}
RATIOS = (("textbook", "fast"), ("textbook", "fast, cached features"),
          ("TRL, text only", "fast, text only"))  # fmt: skip
Steps = dict[str, list[float]]  # of each way, the CPU seconds of every step


def main() -> None:
    """Measure, and write the section after every round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout's folder")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    folders = (options.before.resolve(), ROOT)
    commits = [commit_of(folder) for folder in folders]
    found: tuple[Steps, Steps] = ({}, {})
    for number in range(options.rounds):
        for way, command in WAYS.items():
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                sys.stderr.write(f"round {number + 1}: {way}, {commits[side]}\n")
                found[side].setdefault(way, []).extend(measure(folders[side], command))
        section = render(found, commits, machine())
        (SECTIONS / "two_checkouts.md").write_text(section, encoding="utf-8")
    sys.stdout.write(section)


def measure(folder: Path, command: Sequence[str]) -> list[float]:
    """The CPU seconds of a process's warm steps, or of its only one, by the code in `folder`."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.one_step", *command],
        cwd=folder,
        env={**os.environ, **threads, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return [row["cpu"] for row in rows if row["warm"]] or [row["cpu"] for row in rows]


def render(found: tuple[Steps, Steps], commits: Sequence[str], device: Mapping[str, str]) -> str:
    """Both checkouts' steps and ratios as a section of RESULTS.md."""
    lines = [
        "## Two commits side by side",
        "",
        "`python -m benchmarks.two_checkouts` ran the steps of both commits in turns: CPU seconds, "
        f"medians. {device['cpu']}; one thread.",
        "",
        f"| step | n | {commits[0]} | {commits[1]} | after / before |",
        "|---|--:|--:|--:|--:|",
    ]
    medians = [{way: statistics.median(steps) for way, steps in side.items()} for side in found]
    for way, steps in found[1].items():
        before, after = (side[way] for side in medians)
        row = f"| {way} | {len(steps)} | {before:.2f} | {after:.2f} | {after / before:.3f} |"
        lines.append(row)
    lines += ["", f"| ratio | {commits[0]} | {commits[1]} | after / before |", "|---|--:|--:|--:|"]
    for slow, fast in RATIOS:
        before, after = (side[slow] / side[fast] for side in medians)
        lines.append(f"| {slow} over {fast} | {before:.2f} | {after:.2f} | {after / before:.3f} |")
    return "\n".join(lines) + "\n"


def commit_of(folder: Path) -> str:
    """The short id of the folder's commit."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
