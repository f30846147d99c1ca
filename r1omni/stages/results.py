"""Stages from checkpoints to numbers: predictions, score, report, cards, register."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from r1omni.machine.imports import quick_imports
from r1omni.params_file import read_params
from r1omni.stages.command import (
    PARAMS,
    STAGES,
    ParamsFile,
    SetFile,
    join_ranks_on_devices,
    read_and_set_threads,
    stages,
)


@stages.command("predict-corpora", rich_help_panel=STAGES)
def predict_corpora(
    checkpoint: Annotated[Path, typer.Argument(help="the model to ask")],
    out: Annotated[Path, typer.Argument(help="parquet file to write: one test clip a row")],
    tested: SetFile,
    params: ParamsFile = PARAMS,
) -> None:
    """Answer every test clip by greedy decoding and keep the raw completions."""
    read = read_and_set_threads(params)
    with quick_imports():
        from r1omni.corpora.sets import read_set
        from r1omni.evaluation.predict import run_predict

    join_ranks_on_devices(read.machine)
    run_predict(
        checkpoint,
        read_set(tested),
        out,
        predict=read.predict,
        batch_size=read.machine.predict_batch_size,
        device=read.machine.device,
    )


@stages.command("predict-held-out", rich_help_panel=STAGES)
def predict_held_out(
    checkpoint: Annotated[Path, typer.Argument(help="the model to ask")],
    out: Annotated[Path, typer.Argument(help="parquet file to write: one held-out clip a row")],
    learned: SetFile,
    params: ParamsFile = PARAMS,
) -> None:
    """Answer the held-out training clips, by which the gate compares models."""
    read = read_and_set_threads(params)
    from r1omni.corpora.sets import read_set
    from r1omni.evaluation.predict_held_out import run_predict_held_out

    join_ranks_on_devices(read.machine)
    run_predict_held_out(
        checkpoint,
        read_set(learned),
        out,
        held_out=read.held_out,
        predict=read.predict,
        batch_size=read.machine.predict_batch_size,
        device=read.machine.device,
    )


@stages.command("audit-model", rich_help_panel=STAGES)
def audit_model(
    checkpoint: Annotated[Path, typer.Argument(help="the model to ask again")],
    out: Annotated[Path, typer.Argument(help="JSON file to write: the audit's numbers")],
    clips: Annotated[Path, typer.Option(help="parquet file to write: one audited clip a row")],
    predictions: Annotated[Path, typer.Option(help="what the model answered to the test clips")],
    judges: Annotated[Path, typer.Option(help="folder of the stage `judges`")],
    tested: SetFile,
    params: ParamsFile = PARAMS,
) -> None:
    """Ask a model again about altered clips and rationales: what do its answers depend on?"""
    read = read_and_set_threads(params)
    with quick_imports():
        from r1omni.corpora.sets import read_set
        from r1omni.evaluation.audit.audit import run_audit
        from r1omni.judges.loading import read_judged

    run_audit(
        checkpoint,
        predictions,
        read_set(tested),
        read_judged(judges),
        out,
        clips,
        audit=read.audit,
        score=read.score,
        max_new_tokens=read.predict.max_new_tokens,
        batch_size=read.machine.predict_batch_size,
        processes=read.machine.processes,
        device=read.machine.device,
    )


@stages.command(rich_help_panel=STAGES)
def score(
    predictions: Annotated[list[Path], typer.Argument(help="predictions of all models")],
    out: Annotated[Path, typer.Option(help="metrics.json to write")],
    plots: Annotated[Path, typer.Option(help="folder to write: CSV files for DVC's plots")],
    summary: Annotated[
        Path | None, typer.Option(help="summary.json to write: what DVC compares")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="folder with the synthetic corpora's side files")
    ] = None,
    judges: Annotated[
        Path | None, typer.Option(help="folder of the stage `judges`: adds the reader's answers")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="folder with the models' audits: what judges chose")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Judge predictions: WAR, UAR, recall, confusion, intervals, calm policies."""
    from r1omni.evaluation.score import run_score

    read = read_params(params)
    run_score(
        predictions,
        _within(truth, "*.parquet"),
        out,
        plots,
        summary,
        _if_there(judges, "no reader"),
        _if_there(audit, "no chosen rationales"),
        score=read.score,
        backbone=read.model.backbone,
    )


@stages.command(rich_help_panel=STAGES)
def report(
    metrics: Annotated[Path, typer.Argument(help="metrics.json")],
    predictions: Annotated[list[Path], typer.Argument(help="predictions of all models")],
    training: Annotated[Path, typer.Option(help="folder with each stage's curves")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    truth: Annotated[
        Path | None, typer.Option(help="folder with the synthetic corpora's contact sheets")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="folder with the models' audits")] = None,
    judges: Annotated[
        Path | None, typer.Option(help="folder of the stage `judges`: what they make of test clips")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="… and of training clips, if GRPO's rewards needed it")
    ] = None,
    tested: Annotated[
        Path | None, typer.Option("--set", help="set of the test corpora: shows the cards' clips")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Draw the report: Table 1 beside the paper's, the audit's pictures, curves, example clips."""
    with quick_imports():
        from r1omni.corpora.sets import read_set
        from r1omni.evaluation.report.clip_media import Clips
        from r1omni.evaluation.report.report import run_report

    read = read_params(params)
    clips = None
    if tested is not None:
        members = tuple(read_set(tested))
        clips = Clips(members, read.corpora, read.media, read.machine.workers, read.limits)
    run_report(
        metrics,
        predictions,
        training,
        _within(truth, "*.png"),
        out,
        audit,
        [*_within(judges, "verdicts.parquet"), *_within(evidence, "verdicts.parquet")],
        clips,
        report=read.report,
    )


@stages.command(rich_help_panel=STAGES)
def cards(
    checkpoints: Annotated[list[Path], typer.Argument(help="the checkpoints of all models")],
    metrics: Annotated[Path, typer.Option(help="metrics.json")],
    manifests: Annotated[Path, typer.Option(help="folder with the manifests")],
    rejects: Annotated[Path, typer.Option(help="folder with the rejects")],
    validation: Annotated[Path, typer.Option(help="validation's summary.json")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    audit: Annotated[Path | None, typer.Option(help="folder with the models' audits")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Write model cards and ML-BOMs (a folder per model) and data cards (a file per corpus)."""
    from r1omni.cards.cards import run_cards

    corpora = read_params(params).corpora
    run_cards(checkpoints, metrics, manifests, rejects, validation, out, audit, corpora=corpora)


@stages.command(rich_help_panel=STAGES)
def register(
    name: Annotated[str, typer.Argument(help="base, cold_start, label_sft or grpo")],
    checkpoint: Annotated[Path, typer.Option(help="the checkpoint to register")],
    metrics: Annotated[Path, typer.Option(help="metrics.json")],
    training: Annotated[Path, typer.Option(help="the stage's curves and rollouts")],
    predictions: Annotated[Path, typer.Option(help="the model's predictions")],
    held_out: Annotated[Path, typer.Option(help="its predictions for the held-out clips")],
    test_set: Annotated[Path, typer.Option(help="the list of test corpora, by `r1omni sets`")],
    cards: Annotated[Path, typer.Option(help="its model card and BOM, a folder of `cards`")],
    receipt: Annotated[Path, typer.Option(help="JSON file to write")],
    audit: Annotated[
        Path | None, typer.Option(help="its audit (JSON), whose main numbers its run gets")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Register a checkpoint in MLflow, once per content hash, by reference to its files."""
    with quick_imports():
        from r1omni.cards.audited import audit_metrics
        from r1omni.cards.cards import write_documents
        from r1omni.evaluation.audit_results import read_audit
        from r1omni.evaluation.measured import measured_sets
        from r1omni.tracking.registry import run_register

    with TemporaryDirectory() as documents:
        write_documents(cards, Path(documents))
        run_register(
            checkpoint,
            metrics,
            training,
            predictions,
            held_out,
            receipt,
            name=name,
            test_sets=measured_sets(predictions, test_set),
            tracking=read_params(params).tracking,
            state=Path(".state") / f"{checkpoint.name}.run.json",
            documents=Path(documents),
            audited={} if audit is None else audit_metrics(read_audit(audit)),
        )


def _if_there(folder: Path | None, without: str) -> Path | None:
    """The folder; None, and a line on standard error, if a project has not made it."""
    if folder is None or folder.is_dir():
        return folder
    typer.echo(f"{folder}: does not exist: {without} in the metrics", err=True)
    return None


def _within(folder: Path | None, pattern: str) -> list[Path]:
    """The matching files of a folder that a project need not have."""
    return sorted(folder.glob(pattern)) if folder is not None and folder.is_dir() else []
