"""What the commands for people share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from r1omni.inference.options import PredictOptions

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


def open_model(model: str, mode: Mode, allow: Sequence[str], options: PredictOptions) -> "Backbone":
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
        return load_checkpoint(checkpoint, mode, allow, options.device)


def printable(text: str) -> str:
    """The text without control characters, with which a model could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
