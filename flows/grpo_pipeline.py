"""The flow `grpo-pipeline`: ingest and validate, cold start, GRPO, evaluation, register.

Every DVC stage is one task, so each has its own state, log and retries in Prefect. A stage that DVC
skips is shown as Cached. `python -m flows.serve` runs the flow as the deployment `default`.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task

from flows.processes import CommandResult, run_streaming
from flows.stages import Stage, read_stages
from r1omni.machine.lifeline import die_with_parent

LOCKED = ("is busy", "Unable to acquire lock")
SKIPPED = ("didn't change, skipping", "is cached - skipping run")
LOCK_RETRIES = 20
LOCK_PAUSE = 15.0  # seconds
TABLE = Path("data/reports/table1.md")
CANDIDATE = Path("data/registry/grpo.json")


class StageFailed(RuntimeError):
    """A command failed; the message ends with the last lines of its output."""


class StageLocked(StageFailed):
    """Another DVC process held the lock; the task is retried."""


@dataclass(frozen=True)
class SummaryRow:
    """One row of the run's summary."""

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
    result = _run(command, timeout_seconds)
    text = "\n".join(result.lines)
    if result.code != 0 or result.timed_out:
        locked = any(mark in text for mark in LOCKED)
        why = f"no end after {timeout_seconds:.0f} s" if result.timed_out else "failed"
        raise (StageLocked if locked else StageFailed)(f"stage {stage}: {why}\n{text}")
    if any(mark in text for mark in SKIPPED):
        return Completed(name="Cached", message="nothing changed: DVC skipped it")
    return Completed()


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
    result = _run([sys.executable, "-m", "r1omni.cli", "promote"], timeout_seconds)
    text = "\n".join(result.lines)
    if result.code != 0:
        raise StageFailed(f"gate: failed\n{text}")
    create_markdown_artifact(text, key="champion", description="What the gate decided")


@flow(name="grpo-pipeline")
def grpo_pipeline(
    targets: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Reproduce the pipeline (or `targets` and their upstream), publish Table 1, apply the gate.

    `force` runs every stage even if nothing has changed; `timeout_minutes` bounds each stage.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # started by a worker: must not outlive it
        die_with_parent()
    log = get_run_logger()
    stages = read_stages(Path.cwd(), targets)
    states: dict[str, State[Any]] = {}
    rows: list[SummaryRow] = []
    phase = ""
    for stage in stages:
        if stage.phase != phase:
            phase = stage.phase
            log.info("Phase: %s", phase)
        started = time.monotonic()
        states[stage.name] = reproduce.with_options(tags=[phase])(
            stage.name,
            force,
            60 * timeout_minutes,
            wait_for=[states[name] for name in stage.upstream],
            return_state=True,
        )
        state = states[stage.name]
        rows.append(SummaryRow(stage, str(state.name), time.monotonic() - started))
        if not state.is_completed():
            publish_summary(rows)
            state.result()  # raises the stage's error
    publish_summary(rows)
    if "report" in states and TABLE.is_file():
        publish_table(TABLE)
    if "register@grpo" in states and CANDIDATE.is_file():
        promote(600.0)


def _run(command: Sequence[str], timeout_seconds: float) -> CommandResult:
    log = get_run_logger()
    return run_streaming(command, cwd=Path.cwd(), timeout_seconds=timeout_seconds, log=log.info)


if __name__ == "__main__":
    grpo_pipeline()
