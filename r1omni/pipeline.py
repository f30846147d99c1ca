"""`r1omni repro`: `dvc repro`, also outside a git repository; then Table 1 and the gate."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from r1omni.machine.fork_client import fork_server
from r1omni.machine.lifeline import SHELLS, die_with_parent

if TYPE_CHECKING:
    from r1omni.config import Params
    from r1omni.evaluation.promotion import Decision

METRICS = Path("data/reports/metrics.json")
# The first is the pipeline's candidate; the others follow only while there is no champion.
RECEIPTS = tuple(
    Path(f"data/registry/{name}.json") for name in ("grpo", "label_sft", "cold_start", "base")
)
DVC = (sys.executable, "-m", "dvc")


def run_pipeline(targets: Sequence[str], threads: int) -> int:
    """Reproduce the targets (none: everything). Returns DVC's exit code; prints Table 1 after 0.

    Stages are forked from one process that has the libraries imported (machine/fork_server.py).
    DVC dies with this process and each stage with DVC, so a kill leaves nothing running. SIGTERM is
    passed on to the running stage, which saves its state; the exit code is then 143.
    """
    die_with_parent()
    allow_no_git(Path.cwd())
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "DO_NOT_TRACK": "true",
    }
    with fork_server(environment, threads) as stages_environment:
        process = subprocess.Popen(
            [*DVC, "repro", *targets], env=stages_environment, preexec_fn=die_with_parent
        )
        with _sigterm_to_stage(process) as stopped:
            code = process.wait()
    if stopped():
        return 128 + signal.SIGTERM
    if code == 0 and METRICS.is_file():
        print_table(METRICS)
    return code


def registers(targets: Sequence[str]) -> bool:
    """Whether `dvc repro` of these targets (none: everything) registers the models."""
    return not targets or any(target.split("@")[0] == "register" for target in targets)


def run_gate(params: "Params") -> "list[Decision]":
    """Gate the models that have a receipt. The last decision names the champion.

    A model whose receipt came by `dvc pull` or from DVC's cache is registered here first. Raises
    ValueError if there are no receipts; StoreUnreachable.
    """
    from r1omni.evaluation.promotion import promote_first_of
    from r1omni.tracking.champion import open_champion

    receipts = [receipt for receipt in RECEIPTS if receipt.is_file()]
    if not receipts:
        raise ValueError(f"{RECEIPTS[0]}: does not exist; `r1omni repro` registers the models")
    with open_champion(params.tracking) as champion:
        missing = [receipt for receipt in receipts if not champion.has(receipt)]
    for receipt in missing:
        command = [*DVC, "repro", "--force", "--single-item", f"register@{receipt.stem}"]
        subprocess.run(command, preexec_fn=die_with_parent, check=False)
    targets = [str(receipt) for receipt in receipts]
    return promote_first_of(targets, promotion=params.promotion, tracking=params.tracking)


def allow_no_git(root: Path) -> None:
    """Let DVC work in a copy of the project outside any git repository.

    Raises ValueError if DVC's local settings cannot be written.
    """
    if any((folder / ".git").exists() for folder in (root, *root.parents)):
        return
    if (root / ".dvc/config.local").exists():
        return
    command = [*DVC, "config", "--local", "core.no_scm", "true"]
    done = subprocess.run(command, cwd=root, preexec_fn=die_with_parent, check=False)
    if done.returncode != 0:
        raise ValueError(
            f"{root / '.dvc/config.local'}: cannot set core.no_scm, which DVC needs outside git"
        )


def print_table(metrics: Path) -> None:
    """Print Table 1. Raises ValueError if the pipeline has not been run yet."""
    from r1omni.evaluation.report.table1 import render_table1_text
    from r1omni.evaluation.results import read_metrics

    if not metrics.is_file():
        raise ValueError(f"{metrics}: does not exist yet; `r1omni repro` makes it")
    sys.stdout.write(f"\n{render_table1_text(read_metrics(metrics))}\n")


@contextmanager
def _sigterm_to_stage(dvc: subprocess.Popen[bytes]) -> Iterator[Callable[[], bool]]:
    """Pass SIGTERM on to DVC's running stage, or to DVC between stages.

    Yields a function that says whether SIGTERM was received.
    """
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        stages = list(stages_behind_shells(psutil.Process(dvc.pid)))
        for stage in stages or [dvc]:
            with suppress(psutil.NoSuchProcess):
                stage.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def stages_behind_shells(process: psutil.Process) -> Iterator[psutil.Process]:
    """The process's children; a shell is replaced by its children, which would outlive it."""
    with suppress(psutil.NoSuchProcess):
        for child in process.children():
            if child.name() in SHELLS:
                yield from stages_behind_shells(child)
            else:
                yield child
