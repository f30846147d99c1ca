"""The flows' tasks: one per DVC stage, one per experiment, and what a run publishes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task

from flows.processes import CommandResult, run_streaming
from flows.stages import Stage

LOCKED = ("is busy, it is being blocked by", "Unable to acquire lock. Most likely")  # DVC's words
SKIPPED = ("didn't change, skipping", "is cached - skipping run")
LOCK_RETRIES = 20
LOCK_PAUSE = 15.0  # seconds


class StageFailed(RuntimeError):
    """A command failed; the message ends with the last lines of its output."""


class StageLocked(StageFailed):
    """Another DVC process held the lock; the task is retried."""


@dataclass(frozen=True)
class SummaryRow:
    """One row of a run's summary."""

    stage: Stage
    state: str
    seconds: float


def _was_locked(task: Task[..., object], run: TaskRun, state: State[object]) -> bool:
    return isinstance(state.result(raise_on_failure=False), StageLocked)


@task(
    name="stage",
    task_run_name="{stage}",
    retries=LOCK_RETRIES,
    retry_delay_seconds=LOCK_PAUSE,
    retry_condition_fn=_was_locked,
    cache_policy=NO_CACHE,
)
def reproduce(stage: str, force: bool, timeout_seconds: float) -> State[None]:
    """Completed once DVC has reproduced the stage; named Cached if DVC skipped it.

    Raises StageFailed with the end of the stage's output, StageLocked (retried) while DVC is busy.
    """
    command = ["dvc", "repro", "--single-item", *(["--force"] if force else []), stage]
    lines = _run(f"stage {stage}", command, timeout_seconds).lines
    if any(mark in line for line in lines for mark in SKIPPED):
        return Completed(name="Cached", message="nothing changed: DVC skipped it")
    return Completed()


@task(name="experiment", task_run_name="{name}", cache_policy=NO_CACHE)
def run_experiment(
    name: str, changes: Sequence[str], targets: Sequence[str], timeout_seconds: float
) -> None:
    """Run the pipeline as a DVC experiment of this name, in a worktree of its own.

    Publishes the table of all experiments. Raises StageFailed, StageLocked.
    """
    options = [part for change in changes for part in ("-S", change)]
    command = ["dvc", "exp", "run", "--temp", "--name", name, *options, *targets]
    _run(f"experiment {name}", command, timeout_seconds)
    shown = _run("experiments", ["dvc", "exp", "show", "--only-changed", "--md"], 600.0)
    create_markdown_artifact("\n".join(shown.lines), key="experiments", description=name)


@task(name="Table 1", cache_policy=NO_CACHE)
def publish_table(path: Path) -> None:
    """Publish the report's Table 1 as an artifact of this flow run."""
    create_markdown_artifact(
        path.read_text(encoding="utf-8"), key="table-1", description="Table 1, as measured"
    )


@task(name="summary", cache_policy=NO_CACHE)
def publish_summary(rows: Sequence[SummaryRow]) -> None:
    """Publish the stages' states and seconds as an artifact of this flow run."""
    lines = ["| phase | stage | state | seconds |", "|---|---|---|--:|"]
    lines += [f"| {r.stage.phase} | {r.stage.name} | {r.state} | {r.seconds:.1f} |" for r in rows]
    create_markdown_artifact("\n".join(lines), key="stages", description="The stages of this run")


@task(name="gate: champion", cache_policy=NO_CACHE)
def promote(timeout_seconds: float) -> None:
    """Move the alias `champion` to the new version if it is better on the held-out clips."""
    command = [sys.executable, "-m", "r1omni.cli", "promote"]
    text = "\n".join(_run("gate", command, timeout_seconds).lines)
    create_markdown_artifact(text, key="champion", description="What the gate decided")


def _run(what: str, command: Sequence[str], timeout_seconds: float) -> CommandResult:
    """The command's result. Raises StageFailed, or StageLocked while another DVC is at work."""
    log = get_run_logger()
    result = run_streaming(command, cwd=Path.cwd(), timeout_seconds=timeout_seconds, log=log.info)
    if result.code == 0 and not result.timed_out:
        return result
    why = f"no end after {timeout_seconds:.0f} s" if result.timed_out else "failed"
    error = StageLocked if any(map(_is_lock_error, result.lines)) else StageFailed
    raise error("\n".join([f"{what}: {why}", *result.lines]))


def _is_lock_error(line: str) -> bool:
    """Whether DVC itself says so; a stage may print what it likes."""
    return line.startswith("ERROR: ") and any(mark in line for mark in LOCKED)
