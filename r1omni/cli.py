"""The command line: one command per stage (stages/), and those for people (commands/).

Only these read params.yaml. Imports late, so that `r1omni --help` answers at once.
"""

import logging
import os
import platform
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from safetensors import SafetensorError

from r1omni.commands import commands
from r1omni.machine.environment import numpy_as_everywhere
from r1omni.machine.lifeline import die_with_parent, die_with_shell_parent
from r1omni.stages import stages

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
app.add_typer(commands)


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


def main() -> None:
    """The console script: a user's mistake is one clear line, not a traceback."""
    numpy_as_everywhere()
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("R1OMNI_DEBUG"):
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except SafetensorError as error:  # none of these three, and a full disk raises it
        if os.environ.get("R1OMNI_DEBUG"):
            raise
        sys.stderr.write(f"error: weights or states were not saved or read: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
