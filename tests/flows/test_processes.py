import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

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
FLOW = """
import signal, sys
from pathlib import Path
from flows.processes import run_streaming
def cancel(number, frame):
    raise RuntimeError("cancelled")
signal.signal(signal.SIGTERM, cancel)
run_streaming(sys.argv[1:], cwd=Path("."), timeout_seconds=60,
              log=lambda line: print(line, flush=True))
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
    assert finished.code == 128 + signal.SIGTERM
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


STAGE = """
import signal, sys, time
from pathlib import Path
def save(number, frame):
    time.sleep(1)  # the step in which the signal comes
    Path("state").write_text("step 41")
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
print("training", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_a_stage_saves_its_state_when_its_flow_is_cancelled_or_killed(
    end: str, tmp_path: Path
) -> None:
    """As DVC runs it: behind a shell. Prefect cancels by SIGTERM, and kills 30 s later."""
    (tmp_path / "stage.py").write_text(STAGE)
    command = ["sh", "-c", f"{sys.executable} stage.py; exit $?"]
    flow = subprocess.Popen(
        [sys.executable, "-c", FLOW, *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert flow.stdout is not None
    assert flow.stdout.readline() == "training\n"
    supervisor = psutil.Process(flow.pid).children()[0]
    family = [supervisor, *supervisor.children(recursive=True)]
    flow.send_signal(signal.SIGTERM if end == "cancelled" else signal.SIGKILL)
    flow.communicate(timeout=30)
    assert (flow.returncode == 1) == (end == "cancelled")
    assert all(gone(process.pid) for process in family)
    assert (tmp_path / "state").read_text() == "step 41"
