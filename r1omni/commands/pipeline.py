"""`repro` and `table`: the whole pipeline and its result."""

from pathlib import Path
from typing import Annotated

import typer

from r1omni.commands.command import PEOPLE, commands
from r1omni.corpora.table import TABLE, check_table
from r1omni.params_file import read_params
from r1omni.stages import PARAMS, ParamsFile


@commands.command(rich_help_panel=PEOPLE)
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="DVC stages; none: all")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run the whole pipeline (dvc repro), print Table 1, apply the gate; a second run does nothing.

    The exit code is DVC's: a model that the gate does not promote is no failure.
    """
    from r1omni.pipeline import registers, run_gate, run_pipeline

    read = read_params(params)
    for key, entry in read.corpora.items():  # clearer here than from inside DVC
        if entry.adapter == TABLE:
            check_table(entry.root, key, entry.roles)
    code = run_pipeline(targets or [], read.machine.threads)
    if code == 0 and registers(targets or []):
        for decision in run_gate(read):
            typer.echo(decision.reason)
    raise typer.Exit(code)


@commands.command(rich_help_panel=PEOPLE)
def table(
    metrics: Annotated[Path, typer.Argument(help="metrics.json")] = Path(
        "data/reports/metrics.json"
    ),
    audit: Annotated[
        bool, typer.Option("--audit", help="Print the audits: what answers and rationales rest on.")
    ] = False,
    corpus: Annotated[str, typer.Option(help="With --audit: a test corpus, or all.")] = "all",
    audits: Annotated[Path, typer.Option(help="With --audit: their folder.")] = Path("data/audit"),
) -> None:
    """Print Table 1 as measured, beside the paper's; or, with --audit, the models' audits."""
    if audit:
        from r1omni.evaluation.audit_table import audit_table

        typer.echo(audit_table(audits, corpus), nl=False)
        return
    from r1omni.pipeline import print_table

    print_table(metrics)
