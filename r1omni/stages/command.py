"""What every stage's command shares: its class, its options, how it reads the params."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from r1omni.config import MachineParams, Params
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


def launch_or_go_on(machine: MachineParams) -> None:
    """Run this command in machine.processes ranks and leave, unless this is one of them."""
    from r1omni.machine.launch import launch_ranks

    code = launch_ranks(machine)
    if code is not None:
        raise typer.Exit(code)


def join_ranks_on_devices(machine: MachineParams) -> None:
    """Run this command in ranks if each has a GPU of its own, or if another launcher made ranks.

    On the CPU a rank would spend longer on its imports than it saves: one process goes on.
    """
    from r1omni.machine.device import count_devices

    if machine.device != "cpu" and count_devices() >= machine.processes > 1:
        launch_or_go_on(machine)
    if "RANK" in os.environ:
        from r1omni.machine.ranks import join_ranks

        join_ranks(machine)
