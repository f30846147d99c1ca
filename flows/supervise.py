"""Runs a stage so that it can save its state: also if its flow is cancelled, times out or dies.

`python -m flows.supervise SECONDS COMMAND...` runs DVC's command in a session of its own. On
SIGTERM, and if the process that started it dies, it sends SIGTERM to the running stage alone and
waits. After SECONDS it kills what is left. Prefect itself gives a cancelled flow 30 seconds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil  # type: ignore[import-untyped]

from r1omni.machine.lifeline import die_with_parent, terminate_with_parent
from r1omni.pipeline import stages_behind_shells

STOPPED = 128 + signal.SIGTERM


def main(arguments: Sequence[str]) -> int:
    """The command's exit code; 143 if it was stopped."""
    patience, *command = arguments
    stopping = threading.Event()
    process: subprocess.Popen[str] | None = None

    def stop(_number: int, _frame: object) -> None:
        if stopping.is_set():
            return
        stopping.set()
        if process is not None:
            _terminate(process)
            timer = threading.Timer(float(patience), _kill, [process.pid])
            timer.daemon = True
            timer.start()

    signal.signal(signal.SIGTERM, stop)
    terminate_with_parent()
    if stopping.is_set():
        return STOPPED
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=_prepare,
    )
    if stopping.is_set():  # SIGTERM came while the command was starting
        stopping.clear()
        stop(signal.SIGTERM, None)
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(OSError):  # the flow has died: nobody reads on
            os.write(1, line.encode(errors="replace"))
    code = process.wait()
    return STOPPED if stopping.is_set() else code if code >= 0 else 128 - code


def _terminate(process: "subprocess.Popen[str]") -> None:
    """Send SIGTERM to DVC's running stage, or to DVC between stages."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command = psutil.Process(process.pid)
        for target in list(stages_behind_shells(command)) or [command]:
            with contextlib.suppress(psutil.NoSuchProcess):
                target.terminate()


def _kill(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for member in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _prepare() -> None:
    """Signals as by default: a script's background jobs, for one, ignore SIGINT."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
