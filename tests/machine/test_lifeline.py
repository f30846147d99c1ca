"""A stage's process dies when its shell's parent is killed, whatever the shell."""

import signal
import subprocess
import sys

import psutil
import pytest

BOUND = (
    "from r1omni.machine.lifeline import die_with_shell_parent; import time; "
    "die_with_shell_parent(); print(1, flush=True); time.sleep(60)"
)
CALLER = "import subprocess, sys; subprocess.run([sys.argv[1], '-c', sys.argv[2]])"


@pytest.mark.parametrize("tail", ["", "; true"], ids=["the shell may exec", "the shell stays"])
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_killed_caller_takes_the_command_behind_its_shell_along(shell, tail):
    command = f'{sys.executable} -c "{BOUND}"{tail}'
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, shell, command], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == "1\n"  # die_with_shell_parent has returned
    family = psutil.Process(caller.pid).children(recursive=True)
    assert len(family) == 2 if tail else len(family) in (1, 2)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert psutil.wait_procs(family, timeout=60)[1] == []
