"""`ui`, `promote`, `rollback`: the registered versions."""

from typing import Annotated

import typer

from r1omni.commands.command import PEOPLE, commands
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
