"""Commands that the flow runs: their output is logged, and none outlives the flow."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from r1omni.machine.lifeline import die_with_parent

TAIL_LINES = 25
PATIENCE = 600.0  # seconds that a stopped stage may take to save its state


@dataclass(frozen=True)
class CommandResult:
    """A command's exit code and the last lines of its output."""

    code: int
    lines: tuple[str, ...]
    timed_out: bool


def run_streaming(
    command: Sequence[str], *, cwd: Path, timeout_seconds: float, log: Callable[[str], None]
) -> CommandResult:
    """Run the command and log every line of its output.

    After `timeout_seconds`, or if an exception leaves this function (a cancelled flow), the running
    stage gets SIGTERM and `PATIENCE` seconds to save its state (see flows/supervise.py).
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.supervise", str(PATIENCE), *command],
        cwd=cwd,
        env=venv_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        process.terminate()

    timer = threading.Timer(timeout_seconds, stop)
    timer.start()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        for line in process.stdout:
            if text := line.rstrip():
                tail.append(text)
                log(text)
        code = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            process.terminate()
            for line in process.stdout:
                log(line.rstrip())
            process.wait()
    return CommandResult(code, tuple(tail), timed_out.is_set())


def stop_tree(pid: int, seconds: float = 5.0) -> None:
    """Stop the process and its descendants by SIGTERM and, after `seconds`, by SIGKILL.

    A stage in a session of its own (flows/supervise.py) is left to stop by itself.
    Unlike psutil's wait this reaps nothing, so the parent still gets the process's exit code.
    """
    try:
        parent = psutil.Process(pid)
        members = [parent, *filter(_in_session_of(pid), parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        deadline = time.monotonic() + seconds
        while members and time.monotonic() < deadline:
            time.sleep(0.05)
            members = [member for member in members if _alive(member)]


def _in_session_of(pid: int) -> Callable[[psutil.Process], bool]:
    session = os.getsid(pid)

    def belongs(process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == session
        except ProcessLookupError:
            return False

    return belongs


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def prepare_child() -> None:
    """Make a child process die with its parent and handle signals by default (`preexec_fn`).

    A script's background jobs ignore SIGINT, and their children would inherit that.
    """
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def venv_environment() -> dict[str, str]:
    """This process's environment, with its own installation's commands first on the PATH."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
