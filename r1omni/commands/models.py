"""`ui`, `promote`, `rollback`, `merge`, `serve`, `demo`: the trained models."""

import os
from pathlib import Path
from typing import Annotated

import typer

from r1omni.commands.command import JUDGES, PEOPLE, Base, Model, commands
from r1omni.params_file import read_params
from r1omni.stages import PARAMS, ParamsFile


@commands.command(rich_help_panel=PEOPLE)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="port on this machine")] = 5000,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve MLflow on 127.0.0.1, behind a password, and print the link to the registry.

    Every user of the machine can reach the port, so the pages ask for the user name r1omni and the
    password in .state/mlflow-password. Other clients of this server need both, in
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """
    from r1omni.tracking.ui import run_ui

    run_ui(read_params(params).tracking, port)


@commands.command(rich_help_panel=PEOPLE)
def promote(
    target: Annotated[
        str | None,
        typer.Argument(help="a version's number, an alias or a receipt; none: the pipeline's grpo"),
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Make a registered version `champion` if it is better on the held-out clips.

    Better, by a paired bootstrap against the present champion: a higher WAR, or one that is not
    much lower with a higher format rate (section `promotion` of params). Without a champion, no
    version that was measured on the same clips may be better. Exit code: 0 if the two could be
    compared, whoever is champion then, 1 if not.
    """
    read = read_params(params)
    if target is None:
        from r1omni.pipeline import run_gate

        decisions = run_gate(read)
    else:
        from r1omni.evaluation.promotion import run_promote

        decisions = [run_promote(target, promotion=read.promotion, tracking=read.tracking)]
    for decision in decisions:
        typer.echo(decision.reason)
    raise typer.Exit(int(decisions[-1].outcome == "refused"))


@commands.command(rich_help_panel=PEOPLE)
def rollback(params: ParamsFile = PARAMS) -> None:
    """Return `champion` to the version that held it before."""
    from r1omni.tracking.champion import run_rollback

    typer.echo(run_rollback(tracking=read_params(params).tracking))


@commands.command(rich_help_panel=PEOPLE)
def merge(
    checkpoint: Annotated[Path, typer.Argument(help="folder of a checkpoint with an adapter")],
    out: Annotated[Path, typer.Argument(help="folder to write; it must not exist")],
    base: Base = None,
) -> None:
    """Write the whole model of a checkpoint that holds only an adapter (`engine.adapter`).

    Such a checkpoint needs its base wherever it is used. The merged one needs nothing else, and
    programs that know no adapters load it; its answers are the same up to rounding. Neither the
    adapter nor the base is changed. Example: r1omni merge data/checkpoints/grpo merged
    """
    from r1omni.model.loading import merge_checkpoint

    merge_checkpoint(checkpoint, out, base)
    typer.echo(f"{out}: {checkpoint} with its base in one")


@commands.command(rich_help_panel=PEOPLE)
def serve(
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, or the folder of an MLflow Model")
    ] = "models:/r1-omni@champion",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="port on this machine; by default params'")
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(help="the folder below which a request's `path` may name files")
    ] = None,
    judges: Annotated[
        Path, typer.Option(help="with `serve.answer: reader`: the stage judges' folder")
    ] = JUDGES,
    base: Base = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve a registered model on 127.0.0.1 by MLflow's scoring server.

    POST /invocations takes JSON, {"dataframe_records": [{"path": …}, {"bytes": …}]}: files below
    --media-root, or their bytes in base64. The answers are those of `predict --json`. Section
    `serve` of params has the limits of a request, whether a path may be a URL, and who answers: the
    model, or a reader of its rationales. /health says whether the server runs, /openapi.json what
    it takes. There is no password: everybody on this machine can ask.
    """
    from r1omni.inference.served import BASE_FOLDER, JUDGES_FOLDER, PARAMS_FILE
    from r1omni.inference.server import run_serve

    read = read_params(params)
    os.environ[PARAMS_FILE] = str(params.absolute())  # MLflow's hook reads the options by itself
    os.environ[JUDGES_FOLDER] = str(judges.absolute())
    if base is not None:
        os.environ[BASE_FOLDER] = str(base.absolute())
    run_serve(model, port or read.serve.port, media_root, serve=read.serve, tracking=read.tracking)


@commands.command(rich_help_panel=PEOPLE)
def demo(
    model: Model = "data/checkpoints/grpo",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="port on this machine; by default params'")
    ] = None,
    base: Base = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Show a page on 127.0.0.1 that answers an uploaded file or a recording.

    With rationale, each label's probability, and what was missing or cut. Files are deleted as soon
    as they are answered, and nothing is sent elsewhere. Needs the extra [demo]; `make demo`
    installs it.
    """
    from r1omni.inference.demo import run_demo
    from r1omni.inference.options import choose_options

    options = choose_options(params, False, {})
    run_demo(model, port or options.serve.demo_port, options, base)
