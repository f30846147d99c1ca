"""SIGTERM to `r1omni repro` reaches the running stage, which may end in its own time."""

import os
import signal
import subprocess
import sys
import time

import pytest

STAGE = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path("saved").write_text("state")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("started").touch()
time.sleep(60)
"""
PIPELINE = "import sys; from r1omni.pipeline import run_pipeline; sys.exit(run_pipeline([], 1))"


@pytest.mark.parametrize("tail", ["", " && true"], ids=["the shell may exec", "the shell stays"])
def test_the_stage_saves_and_repro_says_143(tmp_path, tail):
    (tmp_path / "stage.py").write_text(STAGE)
    stages = f"stages: {{train: {{cmd: '{sys.executable} stage.py{tail}'}}}}\n"
    (tmp_path / "dvc.yaml").write_text(stages)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = True\n")
    environment = {k: v for k, v in os.environ.items() if k != "SHELL"}
    repro = subprocess.Popen([sys.executable, "-c", PIPELINE], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 300
    while not (tmp_path / "started").exists():
        assert repro.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    repro.send_signal(signal.SIGTERM)
    assert repro.wait(timeout=120) == 143
    assert (tmp_path / "saved").read_text() == "state"
