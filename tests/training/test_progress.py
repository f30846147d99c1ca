"""The live line of a training shows the step and the numbers that matter."""

import io
from unittest.mock import patch

import kills
import pytest
from forked import train
from rich.console import Console
from rich.text import Text

from r1omni.machine import progress
from r1omni.machine.progress import steps_bar


def terminal(shown):
    """A terminal that can draw, whatever this process runs in."""
    return Console(file=shown, force_terminal=True, width=160, _environ={"TERM": "xterm"})


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_a_live_bar_shows_the_stage_the_step_and_its_numbers(world, tmp_path, kind):
    shown = io.StringIO()
    with patch.object(progress, "Console", lambda **_: terminal(shown)):
        train(kind, world, tmp_path, {}, {})
    text = Text.from_ansi(shown.getvalue()).plain
    rows = kills.curves(tmp_path)
    last = rows[-1]
    assert f"{len(rows)}/{len(rows)}" in text
    if kind == "sft":
        assert f"training · loss {last['train/loss']:.3f} " in text  # by the folder's name
        return
    numbers = (last["reward/accuracy"], last["reward/format"], last["train/kl"])
    assert (
        "training · accuracy {:.2f} format {:.2f} kl {:.3f} zero-variance ".format(*numbers) in text
    )


def test_a_rank_that_does_not_write_shows_nothing(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: terminal(shown))
    for rank, seen in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        with steps_bar() as bar:
            bar.update(bar.add_task("grpo", total=2), completed=1, refresh=True)
        assert ("1/2" in shown.getvalue()) == seen
