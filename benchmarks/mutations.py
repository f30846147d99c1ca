"""A thousand mutated clips: ingestion must accept each or reject it with a reason, never zeros.

    python -m benchmarks.mutations [--clips 1000] [--seed 1]

Writes benchmarks/sections/mutations.md; the exit code is 1 if there are problems.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mutations import list_in, mutated, problems  # noqa: E402

from r1omni.corpora import read_clips  # noqa: E402


def main() -> None:
    """Make the files, ingest them, and check the outcome of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r1omni-mutations-") as folder:
        root = Path(folder)
        made = mutated(root, options.clips, options.seed)
        list_in(root, made)
        start = time.monotonic()
        clips, rejects = read_clips(
            "conversations", root, workers=options.workers, timeout_seconds=60
        )
        seconds = time.monotonic() - start
        wrong = problems(root, made, clips, rejects)
    kinds = {one.path: one.kind for one in made}
    outcomes = Counter((kinds[clip.path], "clip") for clip in clips)
    outcomes.update((kinds[str(r.path)], r.reason) for r in rejects)
    columns = ("clip", "unreadable", "no_audio")
    lines = [
        "## Mutated clips", "",
        f"{len(made):,} files (seed {options.seed}): {len(clips):,} clips and {len(rejects):,} "
        f"rejects in {seconds:.0f} s; {len(wrong)} problems (lost files, wrong verdicts, clips "
        "that do not decode, silence, frames of one colour).", "",
        f"| kind | {' | '.join(columns)} |", "|---|--:|--:|--:|",
        *(f"| {kind} | {' | '.join(str(outcomes[kind, column]) for column in columns)} |"
          for kind in sorted(set(kinds.values()))), "",
        *(f"- {problem}" for problem in wrong),
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    section = ROOT / "benchmarks/sections/mutations.md"
    section.parent.mkdir(exist_ok=True)
    section.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
