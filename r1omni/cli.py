"""The command line: one command per stage (stages/) and the verbs that people use.

The only reader of params.yaml. Imports late, so that `r1omni --help` answers at once.
"""

import logging
import os
import platform
import re
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from r1omni.corpora.known import find_corpus, known_names, listed_corpus
from r1omni.corpora.table import TABLE, check_table
from r1omni.emotions import EMOTIONS
from r1omni.inference.options import (
    BatchSize,
    MaxNewTokens,
    MaxPixels,
    MemoryMb,
    OnDevice,
    Threads,
    Timeout,
    choose_options,
)
from r1omni.machine.imports import quick_imports
from r1omni.machine.lifeline import die_with_parent, die_with_shell_parent
from r1omni.params_file import read_params
from r1omni.stages import PARAMS, ParamsFile, stages

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "R1-Omni (arXiv 2503.05379) end to end: corpora, cold start, GRPO, evaluation.\n\n"
        "`r1omni repro` runs the whole pipeline through DVC and prints Table 1. Every stage is "
        "also a command of its own, which dvc.yaml calls with its paths; the numbers come from "
        "params.yaml. Set R1OMNI_DEBUG=1 to see tracebacks."
    ),
)
app.add_typer(stages)
PEOPLE = "For people"
Model = Annotated[str, typer.Option(help="a folder, a hub id, or models:/NAME@ALIAS")]
Mode = Annotated[
    Literal["reasoned", "direct"] | None,
    typer.Option(help="how to ask; by default as the checkpoint records it"),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="NAME", help="a surplus tensor of the checkpoint to leave out; repeat it"
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"r1omni {version('r1omni')} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def _start(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("r1omni").setLevel(logging.INFO)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported
    if "DVC_STAGE" in os.environ:
        die_with_shell_parent()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a rank: its launcher may be killed
        die_with_parent()


@app.command(rich_help_panel=PEOPLE)
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
    code = run_pipeline(targets or [])
    if code == 0 and registers(targets or []):
        for decision in run_gate(read):
            typer.echo(decision.reason)
    raise typer.Exit(code)


@app.command(rich_help_panel=PEOPLE)
def predict(
    files: Annotated[list[str], typer.Argument(help="media files, folders or glob patterns")],
    model: Model = "data/checkpoints/grpo",
    mode: Mode = None,
    allow: Allow = None,
    labels: Annotated[
        str, typer.Option(help="all, or the corpus whose labels' probabilities to print")
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    timeout_seconds: Timeout = None,
    max_pixels: MaxPixels = None,
    memory_mb: MemoryMb = None,
    threads: Threads = None,
    device: OnDevice = None,
    params: Annotated[
        Path | None, typer.Option(help="where the other options are from; ./params.yaml if there")
    ] = None,
    no_params: Annotated[
        bool, typer.Option("--no-params", help="leave ./params.yaml unread")
    ] = False,
) -> None:
    """Name the emotion in any media file, with the model's rationale and each label's probability.

    Works in any folder: an option that is not given is params.yaml's if there is one here, and the
    default in its help if not. Exit code: 0 if every file was answered, 1 if some were refused or
    the model could not be loaded (standard error says why; a refused file is an object of --json
    too), 2 for a wrong option, 130 after Ctrl-C.
    """
    if params is not None and no_params:
        raise typer.BadParameter("--params and --no-params exclude each other")
    given = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "device": device,
             "timeout_seconds": timeout_seconds, "max_pixels": max_pixels, "memory_mb": memory_mb,
             "threads": threads}  # fmt: skip
    asked = EMOTIONS if labels == "all" else find_corpus(labels).labels or EMOTIONS
    options = choose_options(params, no_params, given)
    options.set_threads()
    from r1omni.media.pool import start_forkserver

    start_forkserver()  # it imports while the model is loaded: the first answer need not wait
    with quick_imports():
        from r1omni.hub import translate_hub_errors
        from r1omni.inference.answer import Answer, answer_batches
        from r1omni.inference.files import Refusal
        from r1omni.inference.finding import find_files
        from r1omni.inference.loading import find_checkpoint, load_checkpoint
        from r1omni.lineage import caution, read_lineage

    found = find_files(files)
    if account := found.account():
        typer.echo(account, err=True)
    n_answered = n_refused = 0
    try:
        with translate_hub_errors(model):
            checkpoint = find_checkpoint(model, options.tracking)
            if warning := caution(read_lineage(checkpoint)):
                typer.echo(warning, err=True)
            backbone = load_checkpoint(checkpoint, mode, allow or (), options.device)
        batches = answer_batches(
            found.items,
            backbone,
            labels=asked,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            limits=options.limits,
        )
        with closing(batches):
            for batch in batches:
                n_answered += sum(isinstance(outcome, Answer) for outcome in batch)
                n_refused += sum(isinstance(outcome, Refusal) for outcome in batch)
                for outcome in batch:
                    text = outcome.as_json() if as_json else outcome.as_text()
                    typer.echo(text, err=isinstance(outcome, Refusal) and not as_json)
    except KeyboardInterrupt:
        typer.echo(f"stopped: {n_answered} of {len(found.items)} answered", err=True)
        raise typer.Exit(130) from None
    if n_refused:
        raise typer.Exit(1)


@app.command(rich_help_panel=PEOPLE)
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


@app.command(rich_help_panel=PEOPLE)
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


@app.command(rich_help_panel=PEOPLE)
def table(
    metrics: Annotated[Path, typer.Argument(help="metrics.json")] = Path(
        "data/reports/metrics.json"
    ),
) -> None:
    """Print Table 1 as measured, beside the paper's."""
    from r1omni.pipeline import print_table

    print_table(metrics)


@app.command(rich_help_panel=PEOPLE)
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


@app.command(rich_help_panel=PEOPLE)
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


@app.command(rich_help_panel=PEOPLE)
def rollback(params: ParamsFile = PARAMS) -> None:
    """Return `champion` to the version that held it before."""
    from r1omni.tracking.champion import run_rollback

    typer.echo(run_rollback(tracking=read_params(params).tracking))


def main() -> None:
    """The console script: a user's mistake is one clear line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("R1OMNI_DEBUG"):
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
