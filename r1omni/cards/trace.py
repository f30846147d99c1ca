"""`r1omni trace`: from a number of Table 1 to the files, code, params and clips that made it.

Everything that can be checked is: the number is recomputed from the raw completions, and hashes
are compared with dvc.lock, the receipt and the registry.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from r1omni.cards.dvc_lock import Lock, dvc_hash, read_lock
from r1omni.cards.facts import (
    Checkpoint,
    CorpusFacts,
    Step,
    ancestry,
    read_checkpoint_facts,
    released_parents,
)
from r1omni.config import TrackingParams
from r1omni.corpora.clip import Clip
from r1omni.evaluation.held_out import dataset_digest
from r1omni.evaluation.metrics import half_width, rate, uar, war
from r1omni.evaluation.predictions import Prediction, read_metadata, read_predictions
from r1omni.evaluation.report.paper import ROWS, SOURCE
from r1omni.evaluation.results import Interval, Metrics
from r1omni.own_code import code_hash
from r1omni.tracking.provenance import file_hash
from r1omni.tracking.registry import find_here, read_receipt

RATES: Final = {"war": "WAR", "uar": "UAR", "format_rate": "format rate"}
NEAREST: Final = 5  # numbers named where a number is in no cell


@dataclass(frozen=True)
class Cell:
    """A number of Table 1: the rate `key` of a model on a corpus, as a fraction."""

    model: str
    corpus: str
    key: str
    value: float
    interval: Interval | None

    def __str__(self) -> str:
        half = "" if self.interval is None else f" (± {100 * half_width(self.interval):.1f})"
        return f"{self.model} · {self.corpus} · {RATES[self.key]} = {100 * self.value:.1f} %{half}"


@dataclass
class Trail:
    """What was found for one cell: lines to print, and what does not agree."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, label: str, text: str) -> None:
        """A line of the trail; once, if a file is met twice."""
        line = f"  {label:<14} {text}"
        if line not in self.lines:
            self.lines.append(line)

    def check(self, label: str, agrees: bool, text: str) -> None:
        """A line that says whether something agrees; a problem if it does not."""
        self.add(label, f"{text} {'✓' if agrees else '✗ DOES NOT AGREE'}")
        problem = f"{self.lines[0]}: {label}: {text}"
        if not agrees and problem not in self.problems:
            self.problems.append(problem)


@dataclass(frozen=True)
class Project:
    """The files of a project that was reproduced."""

    root: Path
    corpora: Sequence[CorpusFacts]
    checkpoints: Sequence[Checkpoint]
    lock: Lock
    tracking: TrackingParams


def open_project(root: Path, corpora: Sequence[CorpusFacts], tracking: TrackingParams) -> Project:
    """The project at `root`. Raises ValueError for a file that cannot be read."""
    folders = sorted((root / "data/checkpoints").glob("*/provenance.json"))
    known = [read_checkpoint_facts(path.parent) for path in folders]
    return Project(root, corpora, known, read_lock(root / "dvc.lock"), tracking)


def find_cells(metrics: Metrics, words: Sequence[str]) -> list[Cell]:
    """The cells that a number ("73.4") or a place ("grpo", "dfew", "war") names.

    A number matches a rate in percent, rounded as it is written, or half of an interval. Raises
    ValueError, with the nearest numbers or the known names, where there is none.
    """
    cells = list(_cells(metrics))
    if len(words) == 3:
        model, corpus, key = (word.lower() for word in words)
        found = [c for c in cells if (c.model, c.corpus, c.key) == (model, corpus, key)]
        if not found:
            places = sorted({f"{c.model} {c.corpus}" for c in cells})
            raise ValueError(
                f"{' '.join(words)}: not measured; known: {', '.join(places)}, each with "
                f"{', '.join(RATES)}"
            )
        return found
    number = words[0].removesuffix("%").strip() if len(words) == 1 else ""
    if not re.fullmatch(r"\d{1,3}(\.\d+)?", number):
        raise ValueError(f"{' '.join(words)}: expected a number, or MODEL CORPUS war|uar")
    decimals = len(number.partition(".")[2])
    found = [c for c in cells if number in _texts(c, decimals)]
    if not found and (paper := _of_the_paper(float(number))):
        raise ValueError(f"{number} was not measured here: it is the paper's ({SOURCE}): {paper}")
    if not found:
        near = sorted(cells, key=lambda c: abs(100 * c.value - float(number)))[:NEAREST]
        raise ValueError(f"{number} is in no cell of Table 1; nearest: {'; '.join(map(str, near))}")
    return found


def trace_cell(cell: Cell, project: Project, metrics: Path) -> Trail:
    """Everything behind one number. Raises ValueError for a file that is missing or invalid."""
    trail = Trail([str(cell)])
    _check_chain(["score", f"predict@{cell.model}"], project, trail)
    interval = "" if cell.interval is None else f", interval {_span(cell.interval)}"
    trail.add("metrics", f"{_shown(metrics, project)}: {cell.value!r}{interval}")
    _check_lock(metrics, project, trail)
    path = project.root / f"data/predictions/{cell.model}.parquet"
    rows = [row for row in read_predictions(path) if row.corpus == cell.corpus]
    _trace_predictions(cell, rows, path, project, trail)
    made = next((c for c in project.checkpoints if c.name == cell.model), None)
    if made is None:
        raise ValueError(f"{project.root / 'data/checkpoints' / cell.model}: does not exist")
    _trace_checkpoint(made, path, project, trail)
    steps = ancestry(made, project.checkpoints)
    for step in steps:
        _trace_step(step, project, trail)
    _check_chain([step.stage for step in steps], project, trail)
    own = code_hash()[:12]
    same = "the same" if own == steps[0].code else f"{own}, another: see the registered commit"
    trail.add("code here", same)
    for parent in released_parents(steps):
        trail.add("released", f"{parent['repo']}, commit {parent['commit']}")
    _trace_test_clips(cell, rows, project, trail)
    _trace_registered(cell, made, project, trail)
    return trail


def _trace_predictions(
    cell: Cell, rows: Sequence[Prediction], path: Path, project: Project, trail: Trail
) -> None:
    right = sum(row.well_formed if cell.key == "format_rate" else row.right for row in rows)
    trail.add("predictions", f"{_shown(path, project)}, SHA-256 {file_hash(path)}")
    _check_lock(path, project, trail)
    again = _recomputed(cell.key, rows)
    counted = f"{right} of {len(rows)} {'well formed' if cell.key == 'format_rate' else 'right'}"
    agrees = again is not None and math.isclose(again, cell.value, rel_tol=1e-12)
    trail.check("recomputed", agrees, f"{counted}; {RATES[cell.key]} {again!r}")


def _trace_checkpoint(made: Checkpoint, predictions: Path, project: Project, trail: Trail) -> None:
    trail.add("checkpoint", f"{_shown(made.folder, project)}, content hash {made.content_hash}")
    _check_lock(made.folder, project, trail)
    asked = read_metadata(predictions).model
    trail.check("asked model", asked == made.lineage, "the predictions' note is of this checkpoint")


def _trace_step(step: Step, project: Project, trail: Trail) -> None:
    told = {"seed": step.seed, "fold": step.fold, "code": step.code, "params": step.params_hash}
    parts = [f"{key} {value}" for key, value in told.items() if value is not None]
    trail.add("made by", f"{step.stage}: {', '.join(parts)}")
    trail.add("", f"content hash {step.content_hash or 'not here'}")
    trail.add("", f"params {json.dumps(step.params, sort_keys=True)}")
    for corpus, count in sorted(step.trained_on.items()):
        clips, where = _clips(corpus, "train", project, trail)
        trail.add(
            "training clips", f"{count} of the {where}; together {dataset_digest(clips)[:16]}"
        )


def _trace_test_clips(
    cell: Cell, rows: Sequence[Prediction], project: Project, trail: Trail
) -> None:
    clips, told = _clips(cell.corpus, "test", project, trail)
    known = {clip.clip_id: clip for clip in clips}
    answered = [known[row.clip_id] for row in rows if row.clip_id in known]
    same = [row.label for row in rows] == [clip.label for clip in answered]
    digest = dataset_digest(answered)[:16]
    trail.check("test clips", same, f"{len(rows)} of the {told}; together {digest}")


def _clips(corpus: str, split: str, project: Project, trail: Trail) -> tuple[list[Clip], str]:
    """The clips of a corpus's split, and where their hashes are."""
    found = [facts for facts in project.corpora if facts.name == corpus]
    for facts in found:
        _check_lock(facts.manifest, project, trail)
    clips = [clip for facts in found for clip in facts.split(split)]
    files = ", ".join(_shown(facts.manifest, project) for facts in found) or "no manifest"
    return clips, f"{len(clips)} {split} clips of {corpus}, with their hashes in {files}"


def _trace_registered(cell: Cell, made: Checkpoint, project: Project, trail: Trail) -> None:
    path = project.root / f"data/registry/{cell.model}.json"
    if not path.is_file():
        trail.add("registered", "no receipt")
        return
    receipt = read_receipt(path)
    agrees = receipt.content_hash == made.content_hash
    trail.check("receipt", agrees, f"{_shown(path, project)}, content {receipt.content_hash[:12]}")
    found = find_here(project.tracking, receipt.registered_model, made.content_hash)
    if found is None:
        trail.add("registered", "not in the registry that params name")
        return
    version, run = found
    commit = run.data.tags.get("mlflow.source.git.commit", "not recorded")
    trail.add(
        "registered",
        f"models:/{version.name}/{version.version}, run {version.run_id}, commit {commit}",
    )
    known = run.data.metrics.get(f"eval/{cell.corpus}/{cell.key}")
    if known is not None:
        trail.check("its metric", known == cell.value, f"{RATES[cell.key]} {known}")


def _check_lock(path: Path, project: Project, trail: Trail) -> None:
    """Compare a file or folder with dvc.lock."""
    name = path.relative_to(project.root).as_posix()
    known = project.lock.outs.get(name)
    if known is None:
        trail.add("hash", f"{name}: not in dvc.lock, so not checked")
        return
    found = dvc_hash(path)
    told = "as in dvc.lock" if found == known else f"dvc.lock has {known}"
    trail.check("hash", found == known, f"{name}: MD5 {found}, {told}")


def _check_chain(stages: Sequence[str], project: Project, trail: Trail) -> None:
    """Check that each stage last read what dvc.lock has as outputs of the stages before it."""
    for stage in stages:
        for path, read in project.lock.deps.get(stage, {}).items():
            made = project.lock.outs.get(path, read)
            if made != read:
                trail.check("dvc.lock", False, f"{stage} read another {path}; run `dvc repro`")


def _cells(metrics: Metrics) -> Iterator[Cell]:
    for model, corpora in metrics.items():
        for corpus, m in corpora.items():
            yield Cell(model, corpus, "war", m.war, m.war_ci)
            yield Cell(model, corpus, "uar", m.uar, m.uar_ci)
            yield Cell(model, corpus, "format_rate", m.format_rate, None)


def _texts(cell: Cell, decimals: int) -> list[str]:
    """How the cell's numbers are written with so many decimals."""
    texts = [f"{100 * cell.value:.{decimals}f}"]
    if decimals >= 3:  # summary.json and the registry have fractions
        texts.append(f"{cell.value:.{decimals}f}")
    if cell.interval is not None and decimals:
        texts.append(f"{100 * half_width(cell.interval):.{decimals}f}")
    return texts


def _of_the_paper(number: float) -> str:
    return "; ".join(
        f"{row.name} on {corpus}, {name}"
        for row in ROWS
        for corpus, pair in row.paper.items()
        for name, value in zip(("WAR", "UAR"), pair, strict=True)
        if value == number
    )


def _recomputed(key: str, rows: Sequence[Prediction]) -> float | None:
    """The rate from the raw completions; None if there are no rows."""
    if not rows:
        return None
    if key == "format_rate":
        return rate(row.well_formed for row in rows)
    compute = war if key == "war" else uar
    return compute([row.label for row in rows], [row.prediction for row in rows])


def _span(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _shown(path: Path, project: Project) -> str:
    return path.relative_to(project.root).as_posix()
