"""`experiment`: a named study of many trainings."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from r1omni.commands.command import PEOPLE, commands
from r1omni.params_file import read_params
from r1omni.stages import PARAMS

LISTS = ("--seeds", "--rows")


class _Lists(TyperCommand):
    """Lets LISTS take several values: `--seeds 1 2` is read as `--seeds 1 --seeds 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, repeat_options(args))


def repeat_options(args: list[str]) -> list[str]:
    """The arguments with one option of LISTS before each of its values."""
    found: list[str] = []
    option, values = "", 0
    for word in args:
        if word.startswith("-"):
            option, values = (word if word in LISTS else ""), 0
        else:
            found += [option] if option and values else []
            values += 1
        found.append(word)
    return found


@commands.command(rich_help_panel=PEOPLE, cls=_Lists)
def experiment(
    name: Annotated[str | None, typer.Argument(help="A study; --list shows them.")] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Seeds of the trainings, as in --seeds 1 2. Default: 1 2 3."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="Only these rows, VARIANT or VARIANT/SEED, as in --rows 0.3 0/2."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Rows at the same time.")] = 1,
    show: Annotated[
        bool, typer.Option("--list", help="Show the studies, their variants and settings.")
    ] = False,
) -> None:
    """Run a study: one DVC experiment for each variant and seed, then its tables.

    Every row is a training of the current commit with a few settings changed (--list shows them).
    DVC queues the rows and shares its cache among them: what rows have in common runs once. Run
    `r1omni repro` first, so that the rows reuse what they do not change.

    A row that has ended is not run again. After Ctrl-C or a kill give the same command again: it
    goes on. A row that fails is named with the end of its log, and the others go on; the same
    command then tries it again.

    The study `metrics` trains nothing and takes no option: answerers with a planted cause go
    through the audit on the project's test clips.

    Writes docs/results/NAME.md (every row, means over the seeds) and docs/results/NAME.json. Text
    around the page's markers stays. Exit code: 0 if every row has ended well, 1 if some failed,
    130 after Ctrl-C.
    """
    from r1omni.experiments.page import RESULTS
    from r1omni.experiments.studies import LABORATORY, find_study, render_studies

    if show or name is None:
        typer.echo(render_studies(), nl=False)
        return
    failed: dict[str, str] = {}
    if name == LABORATORY:
        if seeds or rows or jobs != 1:
            raise typer.BadParameter(f"{LABORATORY} trains nothing: no --seeds, --rows or --jobs")
        _run_laboratory()
    else:
        from r1omni.experiments.run import SEEDS, run_study

        study = find_study(name)
        try:
            failed = run_study(
                study, tuple(dict.fromkeys(seeds or SEEDS)), rows or [], jobs, Path.cwd()
            )
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on", err=True)
            raise typer.Exit(130) from None
    for key, log in failed.items():
        typer.echo(f"\nfailed: {name} {key}\n{log}", err=True)
    typer.echo(f"wrote {RESULTS / name}.md and .json")
    raise typer.Exit(int(bool(failed)))


def _run_laboratory() -> None:
    from r1omni.experiments.laboratory import write_laboratory

    params = read_params(PARAMS)
    write_laboratory(Path.cwd(), audit=params.audit, score=params.score)
