"""A stage's command that has the stage forked, instead of importing torch and others itself.

`r1omni repro` starts a server (fork_server.py), which has the libraries imported. `python -m r1omni
STAGE` asks it to fork the stage, before any heavy import. The command stays as the stage's client:
it passes signals on and ends as the stage ended. If there is no server or it refuses, the command
runs the stage itself. Messages are JSON with file descriptors, on a Unix socket in a folder that
only its owner can read. Imports only Python's own modules.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from r1omni.machine.lifeline import die_with_parent, die_with_shell_parent, terminate_with_parent

SERVER = "r1omni.machine.fork_server"
SOCKET = "R1OMNI_FORK_SERVER"  # the environment variable with the server's socket
STAGES = frozenset(  # those that set their number of threads and import torch or MLflow
    (
        *("base", "features", "cold-start", "label-sft", "grpo", "judges"),
        *("predict-corpora", "predict-held-out", "audit-model", "register"),
    )
)
GPUS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LARGEST = 1 << 18  # bytes of a message


def run_in_fork_server() -> None:
    """Run this stage in the server that R1OMNI_FORK_SERVER names, and end as it does.

    Returns if there is no server, if this command gains nothing by it, or if the server refuses;
    the refusal's reason goes to standard error.
    """
    path = os.environ.get(SOCKET)
    if path is None or not STAGES.intersection(sys.argv[1:2]) or "torch" in sys.modules:
        return
    if "DVC_STAGE" in os.environ:
        die_with_shell_parent()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    try:
        _check_owner(Path(path).parent)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(path)
            _ask(connection)
    except (OSError, _Refused) as error:
        sys.stderr.write(f"{sys.argv[1]}: starts without the fork server: {error}\n")


class _Refused(Exception):
    """The server does not run this command; the message says why."""


def _check_owner(folder: Path) -> None:
    """Raise PermissionError if others than this user can write into the folder."""
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder}: not this user's alone")


def _ask(connection: socket.socket) -> None:
    """Have the stage forked; exit as it does. Raises _Refused or OSError if it does not start."""
    umask = os.umask(0o022)
    os.umask(umask)
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    own_session = os.getsid(0) != os.getsid(struct.unpack("3i", peer)[0])
    ignored = {n for n in (*PASSED_ON, signal.SIGINT) if signal.getsignal(n) is signal.SIG_IGN}
    request = {
        "argv": sys.argv[1:],
        "cwd": str(Path.cwd()),
        "environment": dict(os.environ),
        "python": [sys.prefix, sys.version],
        "group": None if own_session else os.getpgrp(),
        "umask": umask,
        "ignored": sorted(ignored),
    }

    def pass_on(number: int, _: object) -> None:
        with suppress(OSError):
            connection.send(json.dumps({"signal": number}).encode())

    before = {number: signal.getsignal(number) for number in (*PASSED_ON, signal.SIGINT)}
    signal.pthread_sigmask(signal.SIG_BLOCK, before)
    try:
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        for number in set(PASSED_ON) - ignored:
            signal.signal(number, pass_on)
        # A terminal sends SIGINT to all of its group, also to the stage.
        signal.signal(signal.SIGINT, pass_on if own_session else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        answer = json.loads(connection.recv(LARGEST) or b"{}")
        if "pid" in answer:
            end = b""  # of a server that was killed, and the stage with it
            with suppress(ConnectionError):
                end = connection.recv(LARGEST)
            _end_as(int(end or -signal.SIGKILL))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
    raise _Refused(answer.get("refused", "it has ended"))


def _end_as(code: int) -> NoReturn:
    """Exit with the code; a negative one is a signal, by which this process then dies too."""
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


@contextmanager
def fork_server(environment: Mapping[str, str], threads: int) -> Iterator[dict[str, str]]:
    """A server for stages of the working directory with so many threads; yields their environment.

    On a machine with a GPU there is none: a process that has used CUDA cannot be forked, and
    libraries may look for CUDA when they are imported.
    """
    if sys.platform != "linux" or any(Path(device).exists() for device in GPUS):
        yield dict(environment)
        return
    folder = tempfile.mkdtemp(prefix="r1omni-fork-")  # mode 0700; the server removes it
    server = None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{folder}/socket")
            listener.listen(64)
            server = subprocess.Popen(
                [sys.executable, "-m", SERVER, str(listener.fileno()), str(threads)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                preexec_fn=terminate_with_parent,
            )
    except OSError as error:
        sys.stderr.write(f"every stage starts without the fork server: {error}\n")
    try:
        yield {**environment, SOCKET: f"{folder}/socket"} if server else dict(environment)
    finally:
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
