import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from flows.processes import run_streaming

WITH_CHILD = (
    "import subprocess; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True); c.wait()"
)
RUNNER = """
import sys
from pathlib import Path
from flows.processes import run_streaming
command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
run_streaming(command, cwd=Path("."), timeout_seconds=60, log=lambda line: print(line, flush=True))
"""


def gone(pid: int) -> bool:
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_every_line_is_passed_on_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    command = [sys.executable, "-c", "for i in range(40): print(i)\nraise SystemExit(3)"]
    finished = run_streaming(command, cwd=tmp_path, timeout_seconds=30, log=lines.append)
    assert lines == [str(i) for i in range(40)]
    assert finished.code == 3
    assert finished.lines == tuple(str(i) for i in range(15, 40))
    assert not finished.timed_out


def test_the_timeout_stops_the_command_and_what_it_has_started(tmp_path: Path) -> None:
    lines: list[str] = []
    started = time.monotonic()
    command = [sys.executable, "-c", WITH_CHILD]
    finished = run_streaming(command, cwd=tmp_path, timeout_seconds=2, log=lines.append)
    assert finished.timed_out
    assert finished.code == -signal.SIGTERM
    assert time.monotonic() - started < 20
    assert gone(int(lines[0]))


def test_a_command_dies_with_the_one_who_runs_it() -> None:
    runner = subprocess.Popen([sys.executable, "-c", RUNNER], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    pid = int(runner.stdout.readline())
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    runner.stdout.close()
    assert gone(pid)
