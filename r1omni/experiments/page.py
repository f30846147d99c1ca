"""docs/results/STUDY.md: every row, and the means over seeds, between two markers."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from r1omni.evaluation.audit_results import Measured
from r1omni.evaluation.results import write_text
from r1omni.experiments.headings import Heading, Table
from r1omni.experiments.rows import Row, Rows
from r1omni.experiments.studies import Study, Trial

RESULTS = Path("docs/results")
MISSING = "-"  # beside a number that exists; a cell without any number is empty


def write_page(path: Path, study: str, question: str, tables: str) -> None:
    """Put the tables between the page's markers; what is written around them stays.

    Raises ValueError for a page without both markers.
    """
    begin, end = f"<!-- results: `r1omni experiment {study}` writes them -->", "<!-- /results -->"
    if not path.is_file():
        write_text(path, f"# {study}\n\n{question}\n\n{begin}\n{tables}{end}\n")
        return
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path}: expected the markers {begin} and {end}")
    write_text(path, f"{before}{begin}\n{tables}{end}{after}")


def render(study: Study, trials: Sequence[Trial], rows: Rows) -> str:
    """The settings, every row, the means, and what is missing, as Markdown.

    `trials`: all rows of the study's variants and seeds.
    """
    there = [(t, rows.rows[t.key]) for t in trials if t.key in rows.rows]
    missing = [t.key for t in trials if t.key not in rows.rows]
    lines = [
        "Percent. A row is a DVC experiment with a seed of its own; ± is half of the 95 % "
        "bootstrap interval over test clips. An empty cell was not measured.",
        *study.notes,
        "",
        *_settings(study),
    ]
    if missing:
        lines += ["", f"No numbers yet: {', '.join(missing)}."]
    for key, log in rows.failed.items():
        lines += ["", f"Failed: {key}: `{(log.splitlines() or ['no log'])[-1].replace('`', '')}`"]
    if there:
        commits = sorted({row.commit[:7] for _, row in there})
        lines += ["", f"Measured by commit {', '.join(commits)}."]
        lines += ["", "## Means over the seeds", "", "(sd): standard deviation over the seeds."]
        for table in study.tables:
            lines += ["", *_means(study, table, there)]
        lines += ["", "## Every row"]
        for table in study.tables:
            lines += ["", *_every_row(table, there)]
    return "\n".join(lines) + "\n"


def _settings(study: Study) -> list[str]:
    lines = ["| variant | settings |", "|---|---|"]
    for variant in study.variants:
        settings = ", ".join(f"`{setting}`" for setting in variant.shown)
        lines.append(f"| {variant.name} | {settings or '`params.yaml` as it is'} |")
    return lines


def _head(first: Sequence[str], table: Table) -> list[str]:
    titles = [heading.title for heading in table.headings]
    return [
        f"**{table.title}**",
        "",
        f"| {' | '.join([*first, *titles])} |",
        f"|{'---|' * len(first)}{'--:|' * len(titles)}",
    ]


def _every_row(table: Table, there: Sequence[tuple[Trial, Row]]) -> list[str]:
    lines = _head(["variant", "seed", "model"], table)
    for trial, row in there:
        for model in trial.models:
            numbers = row.models.get(model, {})
            cells = [_cell([_number(numbers.get(k)) for k in h.keys]) for h in table.headings]
            lines.append(f"| {trial.variant} | {trial.seed} | {model} | {' | '.join(cells)} |")
    return lines


def _means(study: Study, table: Table, there: Sequence[tuple[Trial, Row]]) -> list[str]:
    lines = _head(["variant", "seeds", "model"], table)
    for variant in study.variants:
        rows = [row for trial, row in there if trial.variant == variant.name]
        for model in (variant.models or study.models) if rows else ():
            each = [row.models.get(model, {}) for row in rows]
            cells = [_mean_cell(heading, each) for heading in table.headings]
            lines.append(f"| {variant.name} | {len(rows)} | {model} | {' | '.join(cells)} |")
    return lines


def _mean_cell(heading: Heading, each: Sequence[dict[str, Measured]]) -> str:
    found = [[row[key].value for row in each if key in row] for key in heading.keys]
    return _cell([_mean(values, len(each)) for values in found])


def _mean(values: Sequence[float], rows: int) -> str:
    """Mean and standard deviation in percent; how many rows have the number if not all."""
    if not values:
        return ""
    notes = [f"sd {100 * statistics.stdev(values):.1f}"] if len(values) > 1 else []
    notes += [f"n {len(values)}"] if len(values) < rows else []
    return f"{100 * statistics.mean(values):.1f}" + (f" ({', '.join(notes)})" if notes else "")


def _number(measured: Measured | None) -> str:
    if measured is None:
        return ""
    value = f"{100 * measured.value:.1f}"
    if measured.low is None or measured.high is None:
        return value
    return f"{value} ± {50 * (measured.high - measured.low):.1f}"


def _cell(numbers: Sequence[str]) -> str:
    return " / ".join(number or MISSING for number in numbers) if any(numbers) else ""
