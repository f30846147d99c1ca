"""The flow `grpo-pipeline` and its phases, from ingestion to the registry.

Every phase is a flow of its own; every DVC stage is one task in it, with its own state, log and
retries. A stage that DVC skips is shown as Cached. `python -m flows.serve` deploys them all.
"""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from flows.stages import REST, Stage, read_stages
from flows.tasks import (
    StageFailed,
    SummaryRow,
    promote,
    publish_summary,
    publish_table,
    reproduce,
    run_experiment,
)
from r1omni.machine.lifeline import die_with_parent

__all__ = ["StageFailed", "grpo_pipeline", "reproduce"]

TABLE = Path("data/reports/table1.md")
CANDIDATE = Path("data/registry/grpo.json")
DVC_FILE = Path(__file__).parents[1] / "dvc.yaml"
STAGES = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"]

# Prefect checks parameters against these before a run starts, and prints what does not fit.
Target = Annotated[str, Field(pattern=f"^({'|'.join(STAGES)})(@.+)?$")]
Change = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z0-9_]+)*=.+$")]


@flow(name="ingest-and-validate")
def ingest_and_validate(
    stages: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Read every corpus into manifests and check them by Great Expectations."""
    _run_phase("ingest and validate", stages, force, timeout_minutes)


@flow(name="cold-start")
def cold_start(
    stages: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Train the cold start and its control, label SFT, after what they need."""
    _run_phase("cold start", stages, force, timeout_minutes)


@flow(name="grpo")
def grpo(
    stages: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Train the cold start by GRPO, after what that needs."""
    _run_phase("GRPO", stages, force, timeout_minutes)


@flow(name="evaluate")
def evaluate(
    stages: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Predict, score and report every model on every test set; publish Table 1."""
    _run_phase("out-of-distribution evaluation", stages, force, timeout_minutes)


@flow(name="register")
def register(
    stages: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Register every checkpoint in MLflow and apply the gate."""
    _run_phase("register", stages, force, timeout_minutes)


@flow(name="everything-else")
def everything_else(
    stages: list[str] | None = None, force: bool = False, timeout_minutes: float = 720.0
) -> None:
    """Reproduce the stages that belong to no phase."""
    _run_phase(REST, stages, force, timeout_minutes)


PHASE_FLOWS = {
    "ingest and validate": ingest_and_validate,
    "cold start": cold_start,
    "GRPO": grpo,
    "out-of-distribution evaluation": evaluate,
    "register": register,
    REST: everything_else,
}


@flow(name="grpo-pipeline")
def grpo_pipeline(
    targets: list[Target] | None = None,
    set: list[Change] | None = None,
    force: bool = False,
    timeout_minutes: float = 720.0,
) -> None:
    """Reproduce the pipeline (or `targets` and their upstream), publish Table 1, apply the gate.

    `set`: params to change, such as "grpo.kl_coef=0.1". The run is then a DVC experiment with a
    name made of them; the folder's own params and results stay as they are.
    `force` runs every stage even if nothing has changed; `timeout_minutes` bounds each stage (of an
    experiment: the whole). Raises ValueError for an unknown target or key of params.yaml.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # started by a worker: must not outlive it
        die_with_parent()
    if set:
        _check_changes(set)
        name = experiment_name(set, str(flow_run.id or ""))
        run_experiment(name, set, targets or [], 60 * timeout_minutes)
        return
    stages = read_stages(Path.cwd(), targets)
    for phase, run_phase in PHASE_FLOWS.items():
        if names := [stage.name for stage in stages if stage.phase == phase]:
            run_phase(names, force, timeout_minutes)


def experiment_name(changes: Sequence[str], run_id: str) -> str:
    """A name that DVC takes, unique by the flow run's id: "grpo-kl_coef-0-1-3f2a9c"."""
    words = "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", change).strip("-") for change in changes)
    return f"{words[:80]}-{run_id[:6]}".rstrip("-")


def _check_changes(changes: Sequence[str]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for change in changes:
        found: Any = params
        for key in change.partition("=")[0].split("."):
            if not isinstance(found, dict) or key not in found:
                known = ", ".join(found) if isinstance(found, dict) else "none"
                raise ValueError(
                    f"set: {change!r}: params.yaml has no {key!r} there; known: {known}"
                )
            found = found[key]


def _run_phase(
    phase: str, names: Sequence[str] | None, force: bool, timeout_minutes: float
) -> None:
    """Run the stages `names`, or all of the phase after what they need."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        die_with_parent()
    every = read_stages(Path.cwd())
    if names is None:
        own = [stage.name for stage in every if stage.phase == phase]
        names = [stage.name for stage in read_stages(Path.cwd(), own)]
    _run_stages([stage for stage in every if stage.name in names], force, 60 * timeout_minutes)
    if "report" in names and TABLE.is_file():
        publish_table(TABLE)
    if "register@grpo" in names and CANDIDATE.is_file():
        promote(600.0)


def _run_stages(stages: Sequence[Stage], force: bool, timeout_seconds: float) -> None:
    log = get_run_logger()
    states: dict[str, State[Any]] = {}
    rows: list[SummaryRow] = []
    for stage in stages:
        log.info("Stage: %s", stage.name)
        started = time.monotonic()
        state = reproduce.with_options(tags=[stage.phase])(
            stage.name,
            force,
            timeout_seconds,
            wait_for=[states[name] for name in stage.upstream if name in states],
            return_state=True,
        )
        states[stage.name] = state
        rows.append(SummaryRow(stage, str(state.name), time.monotonic() - started))
        if not state.is_completed():
            publish_summary(rows)
            state.result()  # raises the stage's error
    publish_summary(rows)


if __name__ == "__main__":
    grpo_pipeline()
