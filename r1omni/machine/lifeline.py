"""A process that must not outlive its parent: a killed pipeline leaves no stage running."""

import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
SHELLS = frozenset({"sh", "dash", "bash", "zsh", "ksh"})  # by the names of their processes


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent process dies (Linux; elsewhere nothing happens).

    Also usable as `preexec_fn` of a subprocess.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died in between
        _die()


def die_with_caller() -> None:
    """As `die_with_parent`, and where the parent is a shell, die with the shell's parent too.

    DVC runs a stage as `$SHELL -c COMMAND`: bash replaces itself with the command, dash (what an
    unset SHELL means) stays between the two and would keep the stage alive after DVC is killed.
    """
    die_with_parent()
    if sys.platform != "linux":
        return
    try:
        shell = Path("/proc", str(os.getppid()), "stat").read_text()
        name, _, rest = shell.partition("(")[2].rpartition(")")
        if name not in SHELLS:
            return
        caller = os.pidfd_open(int(rest.split()[1]))
    except (FileNotFoundError, ProcessLookupError):
        _die()  # one of the two died while we looked

    _die_when_ready(caller)


def _die_when_ready(process: int) -> None:
    def watch() -> None:
        select.select([process], [], [])
        _die()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
