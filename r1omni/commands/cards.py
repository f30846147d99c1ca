"""`bom` and `trace`: what a model is made of, and where a number comes from."""

from pathlib import Path
from typing import Annotated

import typer

from r1omni.commands.command import PEOPLE, commands
from r1omni.params_file import read_params
from r1omni.stages import PARAMS, ParamsFile


@commands.command(rich_help_panel=PEOPLE)
def trace(
    what: Annotated[list[str], typer.Argument(help="73.7, or: grpo CORPUS war")],
    params: ParamsFile = PARAMS,
) -> None:
    """Follow a number of Table 1 to predictions, checkpoint, code, params, parents and clips.

    A number is written as in the table: in percent, rounded. MODEL CORPUS RATE names one cell; the
    rates are war, uar and format_rate. The number is computed again from the raw completions, and
    files are compared with dvc.lock, the receipt and the registry. Exit code: 0 if all agrees, 1 if
    something does not, or if no cell has the number.
    """
    from r1omni.cards.facts import read_corpora
    from r1omni.cards.trace import find_cells, open_project, trace_cell
    from r1omni.evaluation.results import read_metrics
    from r1omni.pipeline import METRICS

    root, read = Path.cwd(), read_params(params)
    if not METRICS.is_file():
        raise ValueError(f"{METRICS}: does not exist yet; `r1omni repro` makes it")
    cells = find_cells(read_metrics(METRICS), what)
    corpora = read_corpora(root / "data/manifests", root / "data/rejects", read.corpora)
    project = open_project(root, corpora, read.tracking)
    trails = [trace_cell(cell, project, root / METRICS) for cell in cells]
    typer.echo("\n\n".join("\n".join(trail.lines) for trail in trails))
    problems = [problem for trail in trails for problem in trail.problems]
    if problems:
        typer.echo(f"\nDOES NOT AGREE ({len(problems)}):", err=True)
        typer.echo("\n".join(f"✗ {problem}" for problem in problems), err=True)
    raise typer.Exit(int(bool(problems)))


@commands.command(rich_help_panel=PEOPLE)
def bom(
    model: Annotated[str, typer.Argument(help="base, cold_start, label_sft or grpo")] = "grpo",
    cards: Annotated[Path, typer.Option(help="what the stage `cards` wrote")] = Path("data/cards"),
) -> None:
    """Print a model's ML-BOM (CycloneDX JSON) with the packages that are installed here."""
    from r1omni.cards.bom import read_bom, render_bom, with_packages
    from r1omni.cards.cards import BOM

    typer.echo(render_bom(with_packages(read_bom(cards / model / BOM))), nl=False)
