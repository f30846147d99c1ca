"""What every stage's command shares: its class, its options, how it reads the params."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from r1omni.config import Params
from r1omni.own_code import changed_code, code_at_start, refuse_changed_code
from r1omni.params_file import read_params


class StageCommand(TyperCommand):
    """A stage's command. It fails if our code changed while it ran.

    DVC would note its outputs as made by the code that it finds afterwards.
    """

    def invoke(self, ctx: Any) -> Any:
        """What the command returns. Raises CodeChanged, or SystemExit where another rank ended."""
        from r1omni.machine.launch import PEER_LOST, is_peer_loss

        code_at_start()
        try:
            result = super().invoke(ctx)
        except RuntimeError as error:
            if "RANK" in os.environ and is_peer_loss(error):
                raise SystemExit(PEER_LOST) from error  # the launcher says which and why
            raise
        again = "what it wrote may come of either version; run it again"
        refuse_changed_code(changed_code(), str(self.name), again)
        return result


stages = typer.Typer(pretty_exceptions_enable=False)
STAGES = "Stages (dvc.yaml calls them with their paths)"

ParamsFile = Annotated[Path, typer.Option("--params", help="The file with every number.")]
PARAMS = Path("params.yaml")
SetFile = Annotated[Path, typer.Option("--set", help="JSON file of the stage `sets`: what to read")]


def read_and_set_threads(path: Path) -> Params:
    """The params, with the thread count set before torch is first imported."""
    params = read_params(path)
    os.environ.setdefault("OMP_NUM_THREADS", str(params.machine.threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return params
