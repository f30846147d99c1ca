"""Commands that the flow runs: their output is passed on, and none outlives the flow."""

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

TAIL = 25


@dataclass(frozen=True)
class Finished:
    """How a command ended, with the last lines that it wrote."""

    code: int
    lines: tuple[str, ...]
    timed_out: bool


def run_streaming(
    command: Sequence[str], *, cwd: Path, timeout_seconds: float, log: Callable[[str], None]
) -> Finished:
    """Runs the command and hands every line that it writes to `log`.

    After `timeout_seconds`, or when this function is left by an exception, the command is stopped
    together with all that it has started.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=venv_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=start_bound,
    )
    assert process.stdout is not None
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        stop_tree(process.pid)

    timer = threading.Timer(timeout_seconds, stop)
    timer.start()
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        for line in process.stdout:
            if text := line.rstrip():
                tail.append(text)
                log(text)
        code = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            stop_tree(process.pid)
            process.wait()
    return Finished(code, tuple(tail), timed_out.is_set())


def stop_tree(pid: int, patience: float = 5.0) -> None:
    """Stops the process and its descendants: SIGTERM, then after `patience` seconds SIGKILL.

    It reaps nothing (as psutil's wait would), so that the one who started it still gets its code.
    """
    try:
        parent = psutil.Process(pid)
        members = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        deadline = time.monotonic() + patience
        while members and time.monotonic() < deadline:
            time.sleep(0.05)
            members = [member for member in members if _alive(member)]


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_bound() -> None:
    """For `preexec_fn`: a child that dies with its parent and has default signals.

    A script's background jobs ignore SIGINT, and so would all that they start.
    """
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def venv_environment() -> dict[str, str]:
    """This process's environment, with the commands of its own installation first on the PATH."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
