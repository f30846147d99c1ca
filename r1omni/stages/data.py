"""Stages up to the manifests: synthesize, fetch, ingest, validate."""

from pathlib import Path
from typing import Annotated

import typer

from r1omni.config import SyntheticCorpus
from r1omni.params_file import check_listed, read_params
from r1omni.stages.command import PARAMS, STAGES, ParamsFile, stages


@stages.command(rich_help_panel=STAGES)
def synthesize(
    corpus: Annotated[SyntheticCorpus, typer.Argument(help="which corpus to render")],
    out: Annotated[Path, typer.Argument(help="the corpus's root folder")],
    truth: Annotated[Path, typer.Option(help="side file with each clip's true attributes")],
    params: ParamsFile = PARAMS,
) -> None:
    """Render a synthetic corpus as mp4 files in the real corpus's layout."""
    from r1omni.corpora.synthetic.synthesize import run_synthesize

    read = read_params(params)
    workers = read.machine.workers
    run_synthesize(out, truth, corpus=corpus, synthetic=read.synthetic, workers=workers)


Tower = Annotated[
    str | None, typer.Option(metavar="OWNER/NAME@REVISION", help="fetched into the same folder")
]


@stages.command(rich_help_panel=STAGES)
def fetch(
    repo: Annotated[str, typer.Argument(help="a checkpoint on the Hugging Face hub, OWNER/NAME")],
    folder: Annotated[Path, typer.Argument(help="folder to write; not there yet")],
    revision: Annotated[str, typer.Option(help="branch, tag or commit")],
    vision: Tower = None,
    audio: Tower = None,
    gate: Tower = None,
) -> None:
    """Fetch a checkpoint and its towers from the hub, whole or not at all."""
    from r1omni.hub import run_fetch

    towers = {"vision": vision, "audio": audio, "gate": gate}
    given = {tower: place for tower, place in towers.items() if place is not None}
    run_fetch(repo, folder, revision=revision, towers=given)


@stages.command(rich_help_panel=STAGES)
def ingest(
    corpus: Annotated[
        str,
        typer.Option("--corpus", "--adapter", help="dfew, mafw, ravdess, conversations or emer"),
    ],
    root: Annotated[Path, typer.Option(help="where the corpus lies; never written to")],
    manifest: Annotated[Path, typer.Option(help="parquet file to write: one clip a row")],
    rejects: Annotated[Path, typer.Option(help="parquet file to write: what was left out and why")],
    fold: Annotated[int, typer.Option(help="the official fold, 1 to 5")] = 1,
    params: ParamsFile = PARAMS,
) -> None:
    """Read a corpus in its own layout: clips to the manifest, the rest to the rejects."""
    from r1omni.corpora.ingestion.ingest import run_ingest

    read = read_params(params)
    run_ingest(
        root,
        manifest,
        rejects,
        corpus=corpus,
        fold=fold,
        ingest=read.ingest,
        limits=read.limits,
        workers=read.machine.workers,
    )


@stages.command(rich_help_panel=STAGES)
def validate(
    manifests: Annotated[list[Path], typer.Argument(help="manifests of all corpora")],
    summary: Annotated[Path, typer.Option(help="JSON file to write")],
    docs: Annotated[Path, typer.Option(help="folder to write: Great Expectations' Data Docs")],
    params: ParamsFile = PARAMS,
) -> None:
    """Check the manifests against one Great Expectations suite; fail on a broken rule."""
    from r1omni.corpora.validation import run_validate

    read = read_params(params)
    check_listed(set(read.corpora), {path.stem for path in manifests}, params)
    run_validate(
        manifests,
        summary,
        docs,
        validation=read.validation,
        missing_audio=read.ingest.missing_audio,
    )
