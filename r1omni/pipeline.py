"""The main job: `dvc repro` with what a newcomer's folder may lack, and Table 1 at the end."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from r1omni.lifeline import die_with_parent

METRICS = Path("data/reports/metrics.json")


def run_pipeline(targets: Sequence[str]) -> int:
    """DVC's exit code after reproducing the targets (none: everything); prints Table 1 after 0.

    DVC dies with this process and each stage with DVC, so a kill leaves nothing running.
    """
    die_with_parent()
    dvc = [sys.executable, "-m", "dvc"]
    if not _in_git() and not Path(".dvc/config.local").exists():
        command = [*dvc, "config", "--local", "core.no_scm", "true"]
        subprocess.run(command, check=True, preexec_fn=die_with_parent)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "DO_NOT_TRACK": "true",
    }
    code = subprocess.run(
        [*dvc, "repro", *targets], env=environment, check=False, preexec_fn=die_with_parent
    ).returncode
    if code == 0 and METRICS.is_file():
        print_table(METRICS)
    return code


def print_table(metrics: Path) -> None:
    """Print Table 1. Raises ValueError where the pipeline has not been run yet."""
    from r1omni.evaluation.report.table1 import render_table1_text
    from r1omni.evaluation.results import read_metrics

    if not metrics.is_file():
        raise ValueError(f"{metrics}: not there yet; `r1omni repro` makes it")
    sys.stdout.write(f"\n{render_table1_text(read_metrics(metrics))}\n")


def _in_git() -> bool:
    return any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents))
