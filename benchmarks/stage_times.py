"""Seconds of each stage of a reproduction: wall time, and CPU time of all its processes.

    python -m benchmarks.stage_times                        # dvc repro, in the project's folder
    python -m benchmarks.stage_times --fresh --again predict@base register@base

`--again` runs only the named stages, whether they changed or not. `--fresh` starts each process
afresh, without the fork server. A Markdown table on stdout; the stages' output goes to stderr.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from r1omni.machine.fork_client import fork_server
from r1omni.params_file import read_params
from r1omni.pipeline import DVC

STARTS = "Running stage '"  # a line of DVC's


def main() -> None:
    """Run the stages and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", nargs="+", default=[], metavar="STAGE")
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    sys.stdout.write("| stage | wall s | CPU s |\n| --- | --: | --: |\n")
    rows = []
    for stage, wall, cpu in stage_times(options.again, forked=not options.fresh):
        rows.append((wall, cpu))
        sys.stdout.write(f"| {stage} | {wall:.1f} | {cpu:.1f} |\n")
        sys.stdout.flush()
    wall, cpu = (sum(column) for column in zip(*rows, strict=True))
    sys.stdout.write(f"| all | {wall:.1f} | {cpu:.1f} |\n")


def stage_times(again: Sequence[str], forked: bool) -> Iterator[tuple[str, float, float]]:
    """Each stage that DVC runs, until the next one starts: its wall and CPU seconds.

    The fork server's imports count to the first stage that is forked.
    """
    environment = {**os.environ, "DO_NOT_TRACK": "true"}
    threads = read_params(Path("params.yaml")).machine.threads
    command = [*DVC, "repro", *(["--force", "--single-item", *again] if again else [])]
    with fork_server(environment, threads) if forked else nullcontext(environment) as given:
        process = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        stage, wall, cpu = "", 0.0, 0.0
        for line in process.stdout:
            sys.stderr.write(line)
            if line.startswith(STARTS):
                now, used = time.monotonic(), cpu_seconds()
                if stage:
                    yield stage, now - wall, used - cpu
                stage, wall, cpu = line.removeprefix(STARTS).rstrip("':\n"), now, used
        if stage:
            yield stage, time.monotonic() - wall, cpu_seconds() - cpu
        if process.wait() != 0:
            sys.exit(process.returncode)


def cpu_seconds() -> float:
    """CPU seconds of all processes below this one, living and ended."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # own, and of children that have ended
    return total


if __name__ == "__main__":
    main()
