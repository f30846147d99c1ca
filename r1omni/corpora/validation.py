"""Stage `validate`: one Great Expectations suite over all manifests."""

import csv
import html
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from r1omni.config import CorpusParams, ValidationParams
from r1omni.corpora.rules import (
    Manifests,
    Rule,
    build_rules,
    count_clips,
    manifest_names,
    read_manifests,
)
from r1omni.training_config import HeldOutParams

_SHOWN_FAILURES = 20

# Data Docs take their style from a CDN; this keeps the page readable without a network.
_OFFLINE_STYLE = """<style>
body { font-family: system-ui, sans-serif; margin: 1rem; line-height: 1.4; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left; vertical-align: top; }
.fa-check-circle::before { content: "✔"; color: green; }
#ge-cta-footer, footer, .breadcrumb { display: none; }
.fa-times::before { content: "✘"; color: firebrick; }
</style>
"""
_ELSEWHERE = re.compile(  # scripts; and what a browser would fetch
    r"<script\b.*?</script>|<(?:link|img)\b[^<>]*?https?://[^<>]*>|<iframe\b.*?</iframe>", re.S
)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_TIME = re.compile(
    r"\b\d{8}T\d{6}\.\d+Z|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?: ?UTC|Z|\+00:00)?"
)


class ValidationFailed(ValueError):
    """A broken rule; the message is the table of clips and rules."""


@dataclass(frozen=True)
class Failure:
    """One clip (or a manifest's class that has none) that breaks one rule."""

    rule: str
    manifest: str
    clip_id: str
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What became of one rule: rows looked at, and rows that break it.

    Of no row at all it is not known whether the rule holds.
    """

    rule: str
    text: str
    success: bool | Literal["not known"]
    evaluated: int
    unexpected: int


def run_validate(
    manifests: Sequence[Path],
    summary: Path,
    docs: Path,
    *,
    validation: ValidationParams,
    missing_audio: str,
    corpora: Mapping[str, CorpusParams],
    held_out: HeldOutParams,
) -> None:
    """Write the summary (JSON), `failures.csv` beside it, and Data Docs below `docs`.

    A manifest is of the entry of `corpora` that has its stem. Raises ValidationFailed, after
    writing them, if a rule is broken; ValueError naming the file if a manifest is none, and where
    less than half of a training corpus would be left to learn from.
    """
    if not manifests:
        raise ValueError("no manifests to validate")
    names = manifest_names(manifests)
    read = read_manifests(manifests, validation.same_sound, corpora)
    _refuse_held_out(read, corpora, held_out)
    rules = build_rules(names, read, validation, missing_audio)
    outcomes, failures = _check(read.table, rules, docs)
    content = {
        "success": not failures,
        "rules": [asdict(outcome) for outcome in outcomes],
        "manifests": count_clips(names, read.table),
    }
    _write(summary.with_name("failures.csv"), _as_csv(failures))
    _write(summary, json.dumps(content, indent=2) + "\n")
    if failures:
        raise ValidationFailed(_as_text(failures, summary.with_name("failures.csv")))


def _refuse_held_out(
    read: Manifests, corpora: Mapping[str, CorpusParams], held_out: HeldOutParams
) -> None:
    """Raise ValueError for a corpus of the role train of which too many clips would be held out."""
    table = read.table
    for key, entry in corpora.items():
        own = table[(table["manifest"] == key) & (table["split"] == "train")]
        n_labelled = int(own["label"].count())
        if "train" in entry.roles and 2 * held_out.clips > n_labelled:
            raise ValueError(
                f"params.yaml: held_out.clips: {held_out.clips} is more than half of the "
                f"{n_labelled} labelled training clips of {key}"
            )


def _check(
    table: pd.DataFrame, rules: Sequence[Rule], docs: Path
) -> tuple[list[Outcome], list[Failure]]:
    """Great Expectations' result for each rule; its pages are written below `docs`.

    Its pages show cells as they are, so it is given escaped ones: `<script>` in a file's name must
    not run. Escaping maps different texts to different ones, so that no rule's verdict changes.
    """
    import great_expectations as gx  # seconds; and validation is imported for its types elsewhere

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("manifests")
    batch = source.add_dataframe_asset("clips").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite("manifests"))
    for rule in rules:
        suite.add_expectation(_expectation(rule))
    definition = gx.ValidationDefinition(name="manifests", data=batch, suite=suite)
    checkpoint = gx.Checkpoint(
        name="manifests",
        validation_definitions=[context.validation_definitions.add(definition)],
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["manifest", "clip_id", "label_class", "copy_of"],
        },
    )
    run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": _escaped(table)})
    (validated,) = run.run_results.values()
    _write(docs / "index.html", _page(validated))
    results = {r.expectation_config.meta["rule"]: r for r in validated.results}
    outcomes: list[Outcome] = []
    failures: list[Failure] = []
    for rule in rules:
        broken = _failures(rule, results[rule.name], table)
        failures += broken
        success = bool(results[rule.name].success)
        assert success == (not broken), f"{rule.name}: {results[rule.name]}"
        evaluated = _evaluated(rule, table)
        outcomes.append(
            Outcome(
                rule.name, rule.text, success if evaluated else "not known", evaluated, len(broken)
            )
        )
    return outcomes, failures


def _expectation(rule: Rule) -> Any:
    import great_expectations.expectations as gxe

    shared = {
        "column": rule.column,
        "description": f"{rule.name}: {rule.text}",
        "meta": {"rule": rule.name},
    }
    allowed = [_escape(value) for value in rule.allowed]
    if rule.check == "unique":
        return gxe.ExpectColumnValuesToBeUnique(**shared)
    if rule.check == "allowed":
        return gxe.ExpectColumnValuesToBeInSet(value_set=allowed, **shared)
    if rule.check == "bounds":
        return gxe.ExpectColumnValuesToBeBetween(min_value=rule.low, max_value=rule.high, **shared)
    return gxe.ExpectColumnDistinctValuesToContainSet(value_set=allowed, **shared)


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the texts in its cells escaped for HTML, each column's type as it was."""
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    return table.assign(
        **{
            name: pd.Series([_escape(v) for v in table[name]], table.index, table[name].dtype)
            for name in texts
        }
    )


def _escape(value: Any) -> Any:
    return html.escape(value) if isinstance(value, str) else value


def _unescape(value: Any) -> Any:
    return html.unescape(value) if isinstance(value, str) else value


def _failures(rule: Rule, result: Any, table: pd.DataFrame) -> list[Failure]:
    if rule.check == "present":
        absent = [v for v in rule.allowed if v not in set(table[rule.column])]
        return [Failure(rule.name, value.split("/")[0], "", f"no clip of {value}")
                for value in absent]  # fmt: skip
    found = result.result.get("unexpected_index_list") or []
    rows = [{name: _unescape(value) for name, value in row.items()} for row in found]
    return [
        Failure(rule.name, str(row["manifest"]), str(row["clip_id"]), _detail(rule, row))
        for row in rows
    ]


def _detail(rule: Rule, row: Mapping[str, Any]) -> str:
    value = row[rule.column]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    where = f" ({row['label_class']})" if rule.column == "clips_of_label" else ""
    if rule.name.startswith("content_"):
        where = f": {row['copy_of']}"
    return f"{rule.column} is {shown}{where}"


def _evaluated(rule: Rule, table: pd.DataFrame) -> int:
    """How many values the rule looked at: empty cells are left to the rule `complete`."""
    return len(rule.allowed) if rule.check == "present" else int(table[rule.column].count())


def _page(validated: Any) -> str:
    """Great Expectations' page of a validation, for a reader without a network.

    Without scripts, links and pictures from elsewhere; and without times and random names, so that
    equal results are equal bytes.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(validated))
    page = _ELSEWHERE.sub("", page)
    names = {name: f"part-{i}" for i, name in enumerate(dict.fromkeys(_UUID.findall(page)))}
    page = _UUID.sub(lambda match: names[match[0]], _TIME.sub("", page))
    return page.replace("<head>", f"<head>\n{_OFFLINE_STYLE}", 1)


def _as_csv(failures: Sequence[Failure]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Failure.__dataclass_fields__)
    writer.writerows(asdict(failure).values() for failure in failures)
    return text.getvalue()


def _as_text(failures: Sequence[Failure], path: Path) -> str:
    """The first failures as a table of clip and rule, then how many each rule has."""
    rows = [(f.clip_id or f.manifest, f.rule, f.detail) for f in failures[:_SHOWN_FAILURES]]
    rows = [("clip", "rule", "detail"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{clip:<{widths[0]}}  {rule:<{widths[1]}}  {detail}" for clip, rule, detail in rows]
    if len(failures) > _SHOWN_FAILURES:
        lines.append(f"… and {len(failures) - _SHOWN_FAILURES} more in {path}")
    counts = Counter(failure.rule for failure in failures)
    totals = ", ".join(f"{rule} {count}" for rule, count in counts.items())
    return "\n".join([f"the manifests break {len(counts)} rules: {totals}", *lines])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
