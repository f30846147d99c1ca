"""`doctor`: a copy of a corpus, and DVC's cache."""

from pathlib import Path
from typing import Annotated

import typer

from r1omni.commands.command import PEOPLE, commands
from r1omni.corpora.known import known_names
from r1omni.corpora.table import TABLE


@commands.command(rich_help_panel=PEOPLE)
def doctor(
    corpus: Annotated[
        str | None, typer.Argument(help=f"{', '.join(known_names())} or {TABLE}")
    ] = None,
    root: Annotated[
        Path | None, typer.Argument(help="where your copy lies; it is only read")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="read DVC's whole cache and name damaged objects")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="with --cache: remove the damaged objects from it")
    ] = False,
) -> None:
    """Look at a copy of a corpus, or with --cache at DVC's cache: what is missing or damaged.

    `r1omni doctor CORPUS ROOT` says what is there, what is missing and where to ask for it.
    `r1omni doctor --cache` hashes every object of DVC's cache, checkpoints and features included,
    and names the outputs that a damaged one belongs to. Exit code: 0 if all is well, 1 if not.
    """
    if (corpus is None) != (root is None) or (corpus is None and not cache):
        raise typer.BadParameter("pass CORPUS and ROOT, or --cache")
    if remove and not cache:
        raise typer.BadParameter("--remove goes with --cache")
    well = True
    if corpus is not None and root is not None:
        from r1omni.corpora.doctor import examine, is_whole

        checks = examine(corpus, root)
        for check in checks:
            typer.echo(str(check))
        well = is_whole(checks)
        typer.echo(f"{corpus} is whole" if well else f"{corpus} is not whole: see the lines with ✗")
    if cache:
        well &= _examine_cache(remove)
    raise typer.Exit(0 if well else 1)


def _examine_cache(remove: bool) -> bool:
    """Whether no object of DVC's cache is damaged; prints what is."""
    from r1omni import dvc_cache

    folder = dvc_cache.find_cache(Path.cwd())
    examined = dvc_cache.check_cache(Path.cwd(), folder)
    if remove:
        dvc_cache.remove_damaged(examined)
    typer.echo(dvc_cache.render_cache_report(folder, examined, remove))
    return not examined.damaged
