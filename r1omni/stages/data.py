"""Stages up to the manifests, and the sets that are made of them: synthesize … sets."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r1omni.config import MachineParams, SyntheticCorpus
from r1omni.corpora.known import known_names
from r1omni.corpora.table import TABLE
from r1omni.machine.imports import quick_imports
from r1omni.params_file import read_params
from r1omni.stages.command import PARAMS, STAGES, ParamsFile, read_and_set_threads, stages

if TYPE_CHECKING:
    from r1omni.corpora.ingestion.probing import Job, Probe, Probed
    from r1omni.limits import Limits

FILES_OF_A_TASK = 256  # on a Ray cluster


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
        typer.Option(
            help=f"an entry of params' corpora; with --root {', '.join(known_names())} or {TABLE}"
        ),
    ],
    manifest: Annotated[Path, typer.Option(help="parquet file to write: one clip a row")],
    rejects: Annotated[Path, typer.Option(help="parquet file to write: what was left out and why")],
    root: Annotated[
        Path | None, typer.Option(help="where the corpus lies, if not where params say; only read")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="with --root: the official fold, or 1")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Read a corpus in its own layout: clips to the manifest, the rest to the rejects."""
    from r1omni.corpora.ingestion.ingest import run_ingest
    from r1omni.corpora.known import find_corpus, listed_corpus
    from r1omni.corpora.table import check_table

    read = read_params(params)
    if root is not None:
        record = find_corpus(corpus)
    elif fold is not None:
        raise typer.BadParameter("--fold goes with --root; else params name the fold")
    elif (entry := read.corpora.get(corpus)) is not None:
        record, root, fold = listed_corpus(corpus, entry), entry.root, entry.fold
        if entry.adapter == TABLE:
            check_table(root, corpus, entry.roles)
    else:
        raise typer.BadParameter(f"{params} has no corpora.{corpus}: list it there, or pass --root")
    run_ingest(
        root,
        manifest,
        rejects,
        corpus=record,
        fold=1 if fold is None else fold,
        ingest=read.ingest,
        limits=read.limits,
        workers=read.machine.workers,
        elsewhere=_on_ray(read.machine, read.limits) if read.machine.engine == "ray" else None,
    )


def _on_ray(machine: MachineParams, limits: "Limits") -> "Probe":
    """Files are opened by tasks of a Ray cluster."""
    from r1omni.corpora.ingestion.probing import probe_chunk
    from r1omni.machine.ray_cluster import chunks, run_on_ray

    cpus = max(1, machine.workers)
    work = partial(probe_chunk, workers=cpus, limits=limits)

    def elsewhere(jobs: "Iterable[Job]") -> "Iterator[Probed]":
        chunked = chunks(jobs, FILES_OF_A_TASK)
        for found in run_on_ray(work, chunked, address=machine.ray_address, cpus=cpus):
            yield from found

    return elsewhere


@stages.command(rich_help_panel=STAGES)
def validate(
    manifests: Annotated[Path, typer.Argument(help="folder with the manifests of all corpora")],
    summary: Annotated[Path, typer.Option(help="JSON file to write")],
    docs: Annotated[Path, typer.Option(help="folder to write: Great Expectations' Data Docs")],
    reasoned: Annotated[
        Path, typer.Option(help="JSON file to write: the set of reasoned clips, for the base")
    ],
    params: ParamsFile = PARAMS,
) -> None:
    """Check the manifests against one Great Expectations suite; fail on a broken rule."""
    with quick_imports():
        from r1omni.corpora.roles import members
        from r1omni.corpora.sets import write_set
        from r1omni.corpora.validation import run_validate

    read = read_params(params)
    run_validate(
        [manifests / f"{key}.parquet" for key in read.corpora],
        summary,
        docs,
        validation=read.validation,
        missing_audio=read.ingest.missing_audio,
        corpora=read.corpora,
        held_out=read.held_out,
    )
    write_set(reasoned, members("cold_start", read.corpora, manifests, None))


@stages.command(rich_help_panel=STAGES)
def measures(
    out: Annotated[Path, typer.Argument(help="folder to write: a table for each corpus")],
    calibration: Annotated[Path, typer.Option(help="set of the cold start's corpora")],
    tested: Annotated[Path, typer.Option(help="set of the test corpora")],
    trained: Annotated[
        Path, typer.Option(help="set of GRPO's corpora: read where a reward asks the judges")
    ],
    params: ParamsFile = PARAMS,
) -> None:
    """Measure what clips sound like: level, pitch, rate, tremor, breath."""
    from r1omni.corpora.sets import read_set
    from r1omni.judges.measuring import run_measures

    read = read_params(params)
    run_measures(
        [*read_set(calibration), *read_set(tested)],
        read_set(trained) if read.grpo.needs_judges else [],
        out,
        corpora=read.corpora,
        media=read.media,
        workers=read.machine.workers,
        limits=read.limits,
    )


@stages.command(rich_help_panel=STAGES)
def judges(
    out: Annotated[Path, typer.Argument(help="folder to write: judges, reader, verdicts")],
    calibration: Annotated[Path, typer.Option(help="set of the cold start's corpora")],
    tested: Annotated[Path, typer.Option(help="set of the test corpora")],
    trained: Annotated[
        Path, typer.Option(help="set of GRPO's corpora: judged where a reward asks the judges")
    ],
    measured: Annotated[Path, typer.Option(help="folder of the stage `measures`")],
    evidence: Annotated[Path, typer.Option(help="folder to write: what GRPO's rewards may ask")],
    params: ParamsFile = PARAMS,
) -> None:
    """Calibrate who checks a rationale's claims on the cold start's texts; judge the test clips."""
    read = read_and_set_threads(params)
    with quick_imports():
        from r1omni.corpora.sets import read_set
        from r1omni.judges.stage import run_judges

    run_judges(
        read_set(calibration),
        read_set(tested),
        read_set(trained) if read.grpo.needs_judges else [],
        measured,
        out,
        evidence,
        judges=read.judges,
    )


@stages.command(rich_help_panel=STAGES)
def sets(
    out: Annotated[Path, typer.Argument(help="folder to write: cold_start, train and test.json")],
    manifests: Annotated[Path, typer.Option(help="folder with the manifests of all corpora")],
    features: Annotated[Path, typer.Option(help="folder with the features of all corpora")],
    params: ParamsFile = PARAMS,
) -> None:
    """List the corpora of each role, with checksums: what training and prediction depend on."""
    from r1omni.corpora.roles import run_sets

    run_sets(out, manifests, features, corpora=read_params(params).corpora)
