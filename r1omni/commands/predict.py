"""`predict`: any media file's emotion."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from r1omni.commands.audit import explain
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
    BatchSize,
    MaxNewTokens,
    MaxPixels,
    MemoryMb,
    OnDevice,
    PredictOptions,
    Samples,
    Temperature,
    Threads,
    Timeout,
)
from r1omni.machine.imports import quick_imports

if TYPE_CHECKING:
    from r1omni.inference.answer import ByReader


@commands.command(rich_help_panel=PEOPLE)
def predict(
    files: Annotated[list[str], typer.Argument(help="media files, folders or glob patterns")],
    model: Model = "data/checkpoints/grpo",
    mode: Mode = None,
    allow: Allow = None,
    base: Base = None,
    labels: Labels = "all",
    as_json: AsJson = False,
    explain_answers: Annotated[
        bool, typer.Option("--explain", help="say what each answer rests on, as `r1omni audit`")
    ] = False,
    answer: Annotated[
        Literal["model", "reader"],
        typer.Option(help="who answers: the model, or a reader of its rationale's claims alone"),
    ] = "model",
    samples: Samples = 1,
    temperature: Temperature = None,
    judges: Annotated[
        Path | None,
        typer.Option(
            help=f"with --explain or --answer reader: the stage judges' folder; default {JUDGES}"
        ),
    ] = None,
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    timeout_seconds: Timeout = None,
    max_pixels: MaxPixels = None,
    memory_mb: MemoryMb = None,
    threads: Threads = None,
    device: OnDevice = None,
    params: FromParams = None,
    no_params: NoParams = False,
) -> None:
    """Name the emotion in any media file, with the model's rationale and each label's probability.

    Works in any folder: an option that is not given is params.yaml's if there is one here, and the
    default in its help if not. Exit code: 0 if every file was answered, 1 if some were refused or
    the model could not be loaded (standard error says why; a refused file is an object of --json
    too), 2 for a wrong option, 130 after Ctrl-C.
    """
    if samples > 1 and (answer == "model" or explain_answers):
        raise typer.BadParameter("--samples needs --answer reader, and no --explain")
    if answer == "reader" and explain_answers:
        raise typer.BadParameter("--explain shows the model's answer and the reader's: no --answer")
    if judges is not None and answer == "model" and not explain_answers:
        raise typer.BadParameter("--judges needs --explain or --answer reader")
    if temperature is not None and samples == 1:
        raise typer.BadParameter("--temperature is of --samples, more than one")
    options = options_of(
        params,
        no_params,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        timeout_seconds=timeout_seconds,
        max_pixels=max_pixels,
        memory_mb=memory_mb,
        threads=threads,
        device=device,
    )
    asked = asked_labels(labels)
    if explain_answers:
        explain(files, model, mode, allow or (), asked, options, judges or JUDGES, as_json, base)
        return
    by = None
    if answer == "reader":
        by = _by_reader(judges or JUDGES, samples, temperature or options.serve.temperature)
    from r1omni.media.pool import start_forkserver

    start_forkserver()  # it imports while the model is loaded: the first answer need not wait
    _predict(files, model, mode, allow or (), asked, options, as_json, by, base)


def _by_reader(folder: Path, samples: int, temperature: float) -> "ByReader":
    """The reader in a folder; with the judges, which choose among several samples."""
    with quick_imports():
        from r1omni.inference.answer import ByReader
        from r1omni.inference.judged import Judges, need_judges
        from r1omni.judges.reader import read_reader
    if samples > 1:
        return ByReader(need_judges(folder), samples, temperature)
    if not folder.is_dir():
        need_judges(folder)  # its error says what to do
    return ByReader(Judges((), read_reader(folder / "reader.json")))


def _predict(
    files: Sequence[str],
    model: str,
    mode: Mode,
    allow: Sequence[str],
    labels: Sequence[str],
    options: PredictOptions,
    as_json: bool,
    by: "ByReader | None",
    base: Path | None,
) -> None:
    """Print each file's answer as soon as its batch is done. Raises typer.Exit."""
    with quick_imports():
        from r1omni.inference.answer import Answer, answer_batches
        from r1omni.inference.files import Refusal
        from r1omni.inference.finding import find_files

    found = find_files(files)
    if account := found.account():
        typer.echo(account, err=True)
    n_answered = n_refused = 0
    try:
        backbone = open_model(model, mode, allow, options, base)
        batches = answer_batches(
            found.items,
            backbone,
            labels=labels,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            limits=options.limits,
            by=by,
        )
        with closing(batches):
            for batch in batches:
                n_answered += sum(isinstance(outcome, Answer) for outcome in batch)
                n_refused += sum(isinstance(outcome, Refusal) for outcome in batch)
                for outcome in batch:
                    text = outcome.as_json() if as_json else outcome.as_text()
                    shown = text if as_json else printable(text)  # JSON escapes them itself
                    typer.echo(shown, err=isinstance(outcome, Refusal) and not as_json)
    except KeyboardInterrupt:
        typer.echo(f"stopped: {n_answered} of {len(found.items)} answered", err=True)
        raise typer.Exit(130) from None
    if n_refused:
        raise typer.Exit(1)
