"""Processes that end with their parent: a killed pipeline leaves no stage running."""

import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
SHELLS = frozenset({"sh", "dash", "bash", "zsh", "ksh"})  # process names


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent process dies (Linux; elsewhere does nothing).

    Can be the `preexec_fn` of a subprocess.
    """
    _signal_at_parents_death(signal.SIGKILL)


def terminate_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent process dies (Linux; elsewhere does nothing)."""
    _signal_at_parents_death(signal.SIGTERM)


def _signal_at_parents_death(number: signal.Signals) -> None:
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), number)


def die_with_shell_parent() -> None:
    """Like `die_with_parent`; if the parent is a shell, this process also dies with its parent.

    DVC runs a stage as `$SHELL -c COMMAND`. bash replaces itself with the command. dash (the
    default without SHELL) stays between the two, so the stage would outlive a killed DVC.
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
        _kill_self()  # the shell or its parent has just died

    _kill_self_at_exit_of(caller)


def _kill_self_at_exit_of(process: int) -> None:
    def watch() -> None:
        select.select([process], [], [])
        _kill_self()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
