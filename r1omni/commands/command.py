"""What the commands for people share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from r1omni.corpora.known import find_corpus
from r1omni.emotions import EMOTIONS
from r1omni.inference.options import PredictOptions, choose_options

if TYPE_CHECKING:
    from r1omni.model.backbone import Backbone

PEOPLE = "For people"
commands = typer.Typer()
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
Base = Annotated[
    Path | None,
    typer.Option(help="folder of an adapter's base; by default where the adapter says"),
]
Labels = Annotated[
    str, typer.Option(help="all, or the corpus whose labels' probabilities are asked for")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object per line")]
FromParams = Annotated[
    Path | None, typer.Option(help="where the other options are from; ./params.yaml if there")
]
NoParams = Annotated[bool, typer.Option("--no-params", help="leave ./params.yaml unread")]
JUDGES = Path("data/judges")


def options_of(params: Path | None, no_params: bool, **given: Any) -> PredictOptions:
    """The options that are `given` (not None), the others as `choose_options` has them.

    torch, which must not be imported yet, is told its threads. Raises BadParameter, ParamsError.
    """
    if params is not None and no_params:
        raise typer.BadParameter("--params and --no-params exclude each other")
    options = choose_options(params, no_params, given)
    options.set_threads()
    return options


def asked_labels(corpus: str) -> Sequence[str]:
    """The labels of a corpus; every label for "all", and for a corpus that names none."""
    return EMOTIONS if corpus == "all" else find_corpus(corpus).labels or EMOTIONS


def open_model(
    model: str, mode: Mode, allow: Sequence[str], options: PredictOptions, base: Path | None = None
) -> "Backbone":
    """The backbone of a folder, a hub id or a registered version, with a warning about its origin.

    Raises as `find_checkpoint` and `load_checkpoint` do.
    """
    from r1omni.hub import translate_hub_errors
    from r1omni.inference.loading import find_checkpoint, load_checkpoint
    from r1omni.lineage import caution, read_lineage

    with translate_hub_errors(model):
        checkpoint = find_checkpoint(model, options.tracking)
        if warning := caution(read_lineage(checkpoint)):
            typer.echo(warning, err=True)
        return load_checkpoint(checkpoint, mode, allow, options.device, base)


def printable(text: str) -> str:
    """The text without control characters, with which a model could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
