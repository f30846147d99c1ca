"""docs/results/STUDY.json, typed: what each row of a study measured."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from r1omni.evaluation.audit_results import AuditResults, Measured
from r1omni.evaluation.results import CorpusMetrics, Result, write_text
from r1omni.experiments.headings import Table, read_end, read_numbers
from r1omni.experiments.studies import Trial

METRICS = "data/reports/metrics.json"
_METRICS = TypeAdapter(dict[str, dict[str, CorpusMetrics]])


class Row(Result):
    """A finished row: {model: {key of a heading: number}}, and the commit that it is based on."""

    commit: str
    settings: tuple[str, ...]
    models: dict[str, dict[str, Measured]]


class Rows(Result):
    """The rows of a study by VARIANT/SEED, and the log's end of those that failed."""

    rows: dict[str, Row] = Field(default_factory=dict)
    failed: dict[str, str] = Field(default_factory=dict)


def read_row(
    root: Path, revision: str, commit: str, trial: Trial, tables: tuple[Table, ...]
) -> Row:
    """The numbers of a finished experiment, out of its own commit and DVC's cache.

    Only the audits that the row itself has made are read: others would be the commit's.
    """
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(str(root), rev=revision)
    metrics = _METRICS.validate_json(files.read_bytes(METRICS))
    shown = {key for table in tables for heading in table.headings for key in heading.keys}
    models = {}
    for model in trial.models:
        audit = None
        if trial.audits:
            audit = AuditResults.model_validate_json(files.read_bytes(f"data/audit/{model}.json"))
        numbers = read_numbers(metrics[model], audit)
        curves = f"data/training/{model}/curves.jsonl"
        if files.exists(curves):
            numbers |= read_end(files.read_text(curves))
        models[model] = {key: numbers[key] for key in sorted(shown & numbers.keys())}
    return Row(commit=commit, settings=trial.settings, models=models)


def read_rows(path: Path) -> Rows:
    """The rows of an earlier run; none without the file. Raises ValueError naming it."""
    if not path.is_file():
        return Rows()
    try:
        return Rows.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from error


def write_rows(rows: Rows, path: Path) -> None:
    """Write the rows with sorted keys, atomically."""
    tree: Mapping[str, object] = rows.model_dump(mode="json", exclude_none=True)
    write_text(path, json.dumps(tree, indent=1, sort_keys=True, allow_nan=False) + "\n")
