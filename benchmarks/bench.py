"""`make bench`: times the fast GRPO step, the textbook's and TRL's side by side in one run.

    python -m benchmarks.bench quick        # the first four ratios, within `--minutes`
    python -m benchmarks.bench full         # also growth, matmul rate, predict, features, CUDA
    python -m benchmarks.bench full --add --rounds 4 --only "G = 8" "G = 16"   # more of some

Every measurement runs in its own process with one thread. The implementations alternate, in another
order each round. Compared are CPU seconds (wall seconds beside them), medians over the rounds.
Writes benchmarks/results.json and benchmarks/RESULTS.md (which includes sections/*.md).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from benchmarks.measuring import machine
from benchmarks.results import Row, summarise, write_results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results.json"
Ways = Mapping[str, list[str]]
WAYS = {
    "textbook": ["one_step", "textbook"],
    "fast": ["one_step", "fast"],
    "fast, cached features": ["one_step", "fast", "--cached"],
    "fast, text only": ["one_step", "fast", "--text"],
    "TRL, text only": ["one_step", "trl"],
}
CACHED = ["one_step", "fast", "--cached"]
SMALLEST = ["--default", "--clips", "32", "--new-tokens", "32"]  # the default's own step
DEFAULTS = {
    "default, textbook": ["one_step", "textbook", *SMALLEST],
    "default, fast": [*CACHED, *SMALLEST],
}
RATES = {"matmul": ["rates", "matmul"], "predict": ["rates", "predict"]}
GROUPS = {f"G = {g}": [*CACHED, "--group-size", str(g)] for g in (2, 4, 8, 16, 32)}
CLIPS = (1, 2, 4, 8, 16)
PROMPTS = (250, 500, 1000, 2000)
MANY_CLIPS = {
    "one at a time": ["--micro-batch", "1"],
    "decoded together": ["--micro-batch", "1", "--recompute"],
    "all at once": [],
}
SHORT = ["--new-tokens", "32"]
SMALL = [*SHORT, "--prompt", "500"]  # for many clips
FULL_ROUNDS = 5


def main() -> None:
    """Measure, and write the results after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["quick", "full", "rest"], nargs="?", default="full")
    parser.add_argument(
        "--rounds", type=int, help="of the ways; default: 5, quick as it fits; of rest: 1"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="quick: no round beyond this")
    parser.add_argument("--add", action="store_true", help="to the rows that are there")
    parser.add_argument("--only", nargs="+", help="only these measurements, by their names")
    options = parser.parse_args()
    ways = WAYS if options.what == "quick" else WAYS | GROUPS | DEFAULTS | RATES
    every = [*ways, *({} if options.what == "quick" else dict(the_rest()))]
    unknown = set(options.only or ()) - set(every)
    if unknown:
        known = ", ".join(f'"{name}"' for name in every)
        parser.error(f"--only {', '.join(map(repr, sorted(unknown)))}: known are {known}")
    measured = dict(the_rest()) if options.what == "rest" else every
    rows = earlier_rows(() if options.add else options.only or measured)
    commit = commit_id()
    began = time.monotonic()
    minutes = options.minutes if options.what == "quick" and options.rounds is None else None
    rounds = 0 if options.what == "rest" else options.rounds or FULL_ROUNDS
    for number in range(rounds):
        started = time.monotonic()
        for name in in_turn(number, ways, options.only):
            rows += measure(name, ways[name], commit)
            finish(rows)
        now = time.monotonic()
        if minutes is not None and (now - began) + (now - started) > 60 * minutes:
            break
    if options.what == "quick":
        return
    rest = [one for one in the_rest() if options.only is None or one[0] in options.only]
    for _ in range(options.rounds or 1 if options.what == "rest" else 1):
        for name, command in rest:
            rows += measure(name, command, commit)
            finish(rows)


def earlier_rows(remeasured: Iterable[str]) -> list[Row]:
    """This machine's earlier rows, without those that are measured again."""
    if not RESULTS.is_file():
        return []
    found = json.loads(RESULTS.read_text())
    if found["machine"] != machine():
        return []
    names = set(remeasured)
    return [row for row in found["rows"] if row["name"] not in names]


def in_turn(number: int, ways: Ways, only: list[str] | None = None) -> list[str]:
    """The measurements (or only some) in the order of a round; each round begins with another."""
    names = [name for name in ways if only is None or name in only]
    turn = number % max(1, len(names))
    return names[turn:] + names[:turn]


def the_rest() -> list[tuple[str, list[str]]]:
    """The measurements that only the full run makes: (name, command)."""
    times = ["--steps", str(FULL_ROUNDS)]
    return [
        *(
            (f"P = {p}, {how}", [*CACHED, *SMALL, "--clips", str(p), *flags, *times])
            for how, flags in MANY_CLIPS.items()
            for p in CLIPS
        ),
        *((f"prompt {n}", [*CACHED, *SHORT, "--prompt", str(n), *times]) for n in PROMPTS),
        *(
            (f"prompt 2000, {flag}", [*CACHED, *SHORT, "--prompt", "2000", f"--{flag}", *times])
            for flag in ("recompute", "checkpointing")
        ),
        ("where time goes", ["where_time_goes"]),
        ("features", ["rates", "features"]),
        *real_size(),
    ]


def real_size() -> list[tuple[str, list[str]]]:
    """The real 0.5B shapes in bfloat16, textbook and fast; without a CUDA device only a note."""
    if not torch.cuda.is_available():
        return [("CUDA", ["rates", "cuda"])]
    size = ["--real", "--new-tokens", "150"]
    return [
        ("CUDA, 0.5B: textbook", ["one_step", "textbook", *size, "--steps", "2"]),
        ("CUDA, 0.5B: fast", ["one_step", "fast", *size, "--steps", "3"]),
        ("CUDA, 0.5B: fast, cached", ["one_step", "fast", "--cached", *size, "--steps", "3"]),
        ("CUDA", ["rates", "cuda"]),
    ]


def commit_id() -> str:
    """The measured commit, "-dirty" if files differ from it; "unknown" outside git."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def measure(name: str, command: list[str], commit: str) -> list[Row]:
    """The rows that one process prints, with their name, start (UTC) and commit."""
    module, *arguments = command
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    sys.stderr.write(f"{at} {name}\n")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if not name.startswith("CUDA"):
        threads["CUDA_VISIBLE_DEVICES"] = ""  # the mid-size models are compared on the CPU
    # cuDNN plans attention again for every length; the textbook has 150 lengths and would look bad.
    threads["TORCH_CUDNN_SDPA_DEPRIORITIZED"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return [{"name": name, **row, "at": at, "commit": commit} for row in rows]


def finish(rows: list[Row]) -> None:
    """Write the results so far."""
    write_results(summarise(rows), rows, machine(), RESULTS)


if __name__ == "__main__":
    main()
