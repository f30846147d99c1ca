"""`r1omni experiment`: run the rows of a study that are not there yet, then write its results."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from r1omni.experiments.page import RESULTS, render, write_page
from r1omni.experiments.profile import profile_overrides
from r1omni.experiments.queue import ExperimentQueue, open_queue
from r1omni.experiments.rows import Row, Rows, read_row, read_rows, write_rows
from r1omni.experiments.studies import Study, Trial, choose_trials

SEEDS = (1, 2, 3)


def run_study(
    study: Study, seeds: Sequence[int], only: Sequence[str], jobs: int, root: Path
) -> dict[str, str]:
    """Run rows, then write docs/results/STUDY.json and .md. Returns failed row -> its log's end.

    A row that has ended well on this commit, or on one with the same code and params, is not run
    again. Raises ValueError for unknown rows and for a project with uncommitted code.
    """
    chosen = [_with_profile(trial, root) for trial in choose_trials(study, seeds, only)]
    queue = open_queue(root)
    path = root / RESULTS / f"{study.name}.json"
    before = read_rows(path)
    missing = [trial for trial in chosen if not _is_known(trial, before, queue)]
    try:
        failed = _run_rows(queue, missing, len(chosen), jobs)
    finally:  # Ctrl-C: what is there is kept
        _collect(study, chosen, queue, path)
    names = {trial.name: trial.key for trial in missing}
    by_key = {names[name]: log for name, log in failed.items()}
    rows = read_rows(path)
    write_results(study, rows.model_copy(update={"failed": rows.failed | by_key}), root)
    return by_key


def _with_profile(trial: Trial, root: Path) -> Trial:
    """The row with its profile's overrides before its own settings."""
    if not trial.profile:
        return trial
    overrides = profile_overrides(root / "params.yaml", root / trial.profile)
    return replace(trial, settings=(*overrides, *trial.settings))


def write_results(study: Study, rows: Rows, root: Path) -> None:
    """Write a study's JSON and its page."""
    write_rows(rows, root / RESULTS / f"{study.name}.json")
    seeds = {int(key.rpartition("/")[2]) for key in (*rows.rows, *rows.failed)} or set(SEEDS)
    write_page(
        root / RESULTS / f"{study.name}.md",
        study.name,
        study.question,
        render(study, list(study.trials(sorted(seeds))), rows),
    )


def _is_known(trial: Trial, before: Rows, queue: ExperimentQueue) -> bool:
    """Whether the row need not run: its numbers, or its experiment, are there."""
    if trial.name in queue.finished():
        return True
    row = before.rows.get(trial.key)
    return row is not None and row.settings == trial.settings and queue.same_code(row.commit)


def _run_rows(
    queue: ExperimentQueue, missing: Sequence[Trial], n: int, jobs: int
) -> dict[str, str]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress, _sigterm_interrupts():
        task = progress.add_task("rows", total=n, completed=n - len(missing))
        if missing:
            progress.console.print(
                f"{len(missing)} of {n} rows to run; `dvc queue logs -f NAME` follows one:",
                *(trial.name for trial in missing),
                highlight=False,
            )

        def ended(name: str, well: bool) -> None:
            progress.console.print(f"{'ended' if well else 'failed'}: {name}", highlight=False)
            progress.advance(task)

        return queue.run(missing, jobs, ended) if missing else {}


def _collect(study: Study, chosen: Sequence[Trial], queue: ExperimentQueue, path: Path) -> None:
    """Read the numbers of finished rows into the study's results."""
    rows, finished = read_rows(path), queue.finished()
    found: dict[str, Row] = {
        trial.key: read_row(
            queue.root, queue.revision(trial.name), queue.commit, trial, study.tables
        )
        for trial in chosen
        if trial.name in finished
    }
    failed = {key: log for key, log in rows.failed.items() if key not in found}
    write_results(study, Rows(rows=rows.rows | found, failed=failed), queue.root)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
