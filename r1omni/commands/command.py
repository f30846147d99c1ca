"""What the commands for people share."""

from typing import Annotated, Literal

import typer

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
