"""The whole code under mypy, as `make lint` checks it."""

import subprocess
import sys


def test_mypy_finds_nothing(repo):
    command = [sys.executable, "-m", "mypy", "--no-pretty"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
