"""Errors that reach the command line: one line each, the traceback with R1OMNI_DEBUG alone."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from r1omni import cli


@pytest.fixture
def saves_what_the_disk_does_not_take(tmp_path: Path) -> Callable[[], None]:
    """A command that saves 4 MB where a file may have 4 kB: as on a full disk, half is written."""

    def command() -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            save_file({"weights": torch.zeros(1_000_000)}, tmp_path / "model.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return command


def test_weights_that_the_disk_does_not_take_are_one_line(
    saves_what_the_disk_does_not_take, monkeypatch, capsys
):
    monkeypatch.setattr(cli, "app", saves_what_the_disk_does_not_take)
    monkeypatch.delenv("R1OMNI_DEBUG", raising=False)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: weights or states were not saved or read: ")
    assert "File too large" in line  # the system's own reason
    monkeypatch.setenv("R1OMNI_DEBUG", "1")
    with pytest.raises(SafetensorError):
        cli.main()
