"""`evaluate`: one checkpoint on one corpus."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from r1omni.commands.command import PEOPLE, Allow, Mode, Model, commands
from r1omni.corpora.known import find_corpus, listed_corpus
from r1omni.machine.imports import quick_imports
from r1omni.params_file import read_params
from r1omni.stages import PARAMS, ParamsFile


@commands.command(rich_help_panel=PEOPLE)
def evaluate(
    model: Model,
    corpus: Annotated[
        str, typer.Option(help="whose test clips: an entry of params' corpora, or a known corpus")
    ],
    root: Annotated[Path | None, typer.Option(help="its root; by default that of params")] = None,
    fold: Annotated[int | None, typer.Option(help="1 to 5; by default that of params")] = None,
    mode: Mode = None,
    allow: Allow = None,
    out: Annotated[
        Path | None, typer.Option(help="folder to write; by default data/evaluations/MODEL-CORPUS")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Measure one checkpoint on one corpus: ingest, features, predict and score in one command."""
    read = read_params(params)
    os.environ.setdefault("OMP_NUM_THREADS", str(read.machine.threads))
    with quick_imports():
        from r1omni.evaluation.evaluate import Candidate, TestSet, render_result, run_evaluate
        from r1omni.hub import translate_hub_errors
        from r1omni.inference.loading import find_checkpoint
        from r1omni.lineage import caution, read_lineage

    known = read.corpora.get(corpus)
    if root is None and known is None:
        raise typer.BadParameter(f"{params} has no corpora.{corpus}: pass --root")
    name = re.sub(r"[^\w.-]+", "-", model.removeprefix("models:/").rstrip("/").split("/")[-1])
    record = find_corpus(corpus) if known is None else listed_corpus(corpus, known)
    where, number = (known.root, known.fold or 1) if known else (Path(), 1)
    test_set = TestSet(record, root or where, number if fold is None else fold)
    with translate_hub_errors(model):
        checkpoint = find_checkpoint(model, read.tracking)
        if warning := caution(read_lineage(checkpoint)):
            typer.echo(warning, err=True)
        candidate = Candidate(name, checkpoint, mode, tuple(allow or ()))
        result = run_evaluate(
            candidate,
            test_set,
            out or Path("data/evaluations") / f"{name}-{corpus}",
            params=read,
        )
    typer.echo(render_result(candidate, test_set, result))
