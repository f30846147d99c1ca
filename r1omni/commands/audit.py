"""`audit`: what an answer to a clip rests on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from r1omni.commands.command import (
    JUDGES,
    PEOPLE,
    Allow,
    AsJson,
    Base,
    FromParams,
    Labels,
    Mode,
    Model,
    NoParams,
    asked_labels,
    commands,
    open_model,
    options_of,
    printable,
)
from r1omni.inference.options import (
    MaxNewTokens,
    MaxPixels,
    MemoryMb,
    OnDevice,
    PredictOptions,
    Threads,
    Timeout,
)
from r1omni.machine.imports import quick_imports

if TYPE_CHECKING:
    from r1omni.evaluation.explaining import Explanation


_WIDEST: Final = 1000  # characters


@commands.command(rich_help_panel=PEOPLE)
def audit(
    clips: Annotated[list[str], typer.Argument(help="media files, folders or glob patterns")],
    model: Model = "data/checkpoints/grpo",
    judges: Annotated[
        Path, typer.Option(help="the claim judges' folder, which the stage judges writes")
    ] = JUDGES,
    labels: Labels = "all",
    as_json: AsJson = False,
    mode: Mode = None,
    allow: Allow = None,
    base: Base = None,
    max_new_tokens: MaxNewTokens = None,
    timeout_seconds: Timeout = None,
    max_pixels: MaxPixels = None,
    memory_mb: MemoryMb = None,
    threads: Threads = None,
    device: OnDevice = None,
    params: FromParams = None,
    no_params: NoParams = False,
) -> None:
    """Say what an answer rests on: each claim's verdict, each modality's share, altered clips.

    Verdicts and the reader's answer need the judges; without data/judges all else is printed, and
    another folder that is not there is an error.
    Exit code: 0 if every clip was explained, 1 if some were refused, 130 after Ctrl-C.
    """
    options = options_of(
        params,
        no_params,
        max_new_tokens=max_new_tokens,
        timeout_seconds=timeout_seconds,
        max_pixels=max_pixels,
        memory_mb=memory_mb,
        threads=threads,
        device=device,
    )
    asked = asked_labels(labels)
    explain(clips, model, mode, allow or (), asked, options, judges, as_json, base)


def explain(
    clips: Sequence[str],
    model: str,
    mode: Mode,
    allow: Sequence[str],
    labels: Sequence[str],
    options: PredictOptions,
    judges: Path,
    as_json: bool,
    base: Path | None = None,
) -> None:
    """Print each clip's explanation as soon as it is there. Raises typer.Exit."""
    with quick_imports():
        from r1omni.evaluation.explaining import explain_files
        from r1omni.inference.files import Refusal
        from r1omni.inference.finding import find_files
        from r1omni.inference.judged import need_judges, read_judges
    known = read_judges(judges) if judges == JUDGES else need_judges(judges)
    found = find_files(clips)
    if account := found.account():
        typer.echo(account, err=True)
    explained = refused = 0
    try:
        backbone = open_model(model, mode, allow, options, base)
        for outcome in explain_files(
            found.items,
            backbone,
            known,
            labels=labels,
            max_new_tokens=options.max_new_tokens,
            limits=options.limits,
        ):
            if isinstance(outcome, Refusal):
                refused += 1
                text = outcome.as_json() if as_json else outcome.as_text()
                typer.echo(text, err=not as_json)
                continue
            explained += 1
            if as_json:
                typer.echo(outcome.as_json())
            else:
                _show(outcome)
    except KeyboardInterrupt:
        typer.echo(f"stopped: {explained} of {len(found.items)} explained", err=True)
        raise typer.Exit(130) from None
    if refused:
        raise typer.Exit(1)


def _show(e: "Explanation") -> None:
    """Print an explanation for people. Control characters of a model's text are left out."""
    from rich.console import Console
    from rich.table import Table

    # wider than any row: neither a path nor a number is cut, in a pipe least of all
    console = Console(markup=False, highlight=False, soft_wrap=True, width=_WIDEST)

    def line(text: str) -> None:
        console.print(printable(text))

    line(f"{e.file}: {e.prediction or 'no known emotion'}")
    if e.rationale:
        line(f"  {e.rationale}")
    elif e.mode == "direct":
        line(
            "  this model answers directly: it gives no rationale, so there are no claims to judge"
        )
    else:
        line("  no rationale: what the model wrote is not in the form that it was taught")
    if e.claims:
        table = Table(box=None, padding=(0, 2, 0, 2))
        for name in ("claim", "of", "verdict", "judge's p", "model's p", "weight"):
            table.add_column(name, justify="right" if name.endswith(" p") else "left", no_wrap=True)
        for c in e.claims:
            table.add_row(
                printable(f"not {c.words}" if c.negated else c.words),
                c.attribute,
                c.verdict,
                "-" if c.probability is None else f"{c.probability:.2f}",
                f"{c.certainty:.2f}",
                "-" if c.weight is None else f"{c.weight:+.2f}",
            )
        console.print(table)
    if e.reader is not None:
        line(f"  the reader of these claims answers: {e.reader} ({e.reader_probability:.2f})")
    if e.shares is None and e.mode == "reasoned" and not e.rationale:
        line("  shares: unknown: behind no rationale the labels have no probability")
    elif e.shares is None:
        line("  shares: neither picture nor sound changes the answer")
    else:
        line(
            f"  shares: picture {e.shares['video']:.0%}, sound {e.shares['audio']:.0%} "
            f"(Shapley; absent means {e.absent})"
        )
    for name, said in (("muted", e.muted), ("in the dark", e.dark)):
        line(f"  {name} it answers: {said.prediction or 'no known emotion'}")
        if said.rationale:
            line(f"    {said.rationale}")
    if e.reversed is not None:
        line(f"  with its claims reversed it answers: {e.reversed}")
    elif e.rationale:
        line("  with its claims reversed: it makes none that can be reversed")
    for note in e.notes:
        line(f"  ({note})")
