"""One stage command, N processes: the stage launches its ranks and waits for them.

On one machine the ranks run this very command again, with RANK and WORLD_SIZE in their environment
and a file where they meet, so no port is taken. With a hostfile DeepSpeed's launcher starts them
over ssh; all machines then need the repository, its environment and data/ at the same paths, on a
shared disk. (There, a SIGKILL of the stage is not felt by ranks on other machines; SIGTERM and
Ctrl-C are, but the launcher ends them without a last state.) Whoever sets RANK beforehand
(torchrun, deepspeed) has launched the ranks already. Imports no torch.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from r1omni.config import EngineParams
from r1omni.lifeline import die_with_parent

RENDEZVOUS = "R1OMNI_RENDEZVOUS"  # a file where the ranks of one machine find each other
SAID = 2000  # characters of a failed rank's last words that are repeated
GRACE = 5.0  # seconds that ranks have to end by themselves once one has failed

Rank = tuple[subprocess.Popen[bytes], Path]


def launch_ranks(engine: EngineParams, command: Sequence[str] | None = None) -> int | None:
    """The exit code of the ranks' runs, or None where this process is to train by itself.

    `command`: what each rank runs; without it, this process's own command. The ranks die with this
    process; SIGTERM is passed on to them; when one fails the others are ended, and what the failed
    one said last is repeated on standard error. Raises ValueError for a hostfile that is not there.
    """
    if "RANK" in os.environ or (engine.processes == 1 and engine.hostfile is None):
        return None
    own = [sys.executable, "-m", "r1omni.cli", *sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="r1omni-ranks-") as folder:
        if engine.hostfile is not None:
            ranks = [_start_launcher(engine.hostfile, sys.argv[1:], Path(folder))]
        else:
            ranks = [
                _start(command or own, number, engine.processes, Path(folder))
                for number in range(engine.processes)
            ]
        with _sigterm_passed_on([process for process, _ in ranks]):
            return _wait(ranks)


def _start(command: Sequence[str], number: int, size: int, folder: Path) -> Rank:
    environment = {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        RENDEZVOUS: str(folder / "rendezvous"),
    }
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return _popen(command, environment, folder / f"rank-{number}", quiet=number > 0)


def _start_launcher(hostfile: Path, arguments: Sequence[str], folder: Path) -> Rank:
    """DeepSpeed's launcher with this command, on the machines of the hostfile."""
    if not hostfile.is_file():
        raise ValueError(f"{hostfile}: engine.hostfile names it, but it is not there")
    command = [
        sys.executable,
        *("-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile), "--no_local_rank"),
        *_local(hostfile),
        *("--module", "r1omni.cli", *arguments),
    ]
    stage = {"R1OMNI_STAGE_PID": str(os.getpid())}  # the launcher's children outlive the launcher
    return _popen(command, stage, folder / "launcher", quiet=False)


def _local(hostfile: Path) -> list[str]:
    """What spares the launcher ssh and a fixed port where the hostfile names this machine alone."""
    lines = [line.split("#")[0].split() for line in hostfile.read_text().splitlines()]
    hosts = {words[0] for words in lines if words}
    if hosts != {"localhost"}:
        return []
    with socket.socket() as probe:  # two such runs at once must not meet at the default port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ["--no_ssh_check", "--master_addr", "127.0.0.1", "--master_port", str(port)]


def _popen(command: Sequence[str], extra: Mapping[str, str], said: Path, *, quiet: bool) -> Rank:
    """Start it to die with this process; a quiet one writes to the file `said` alone."""
    with said.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **extra},
            stdout=file if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            preexec_fn=die_with_parent,
        )
    return process, said


def _wait(ranks: Sequence[Rank]) -> int:
    """0 when all have ended well, else the first failure's code, with the others ended."""
    try:
        while True:
            codes = [process.poll() for process, _ in ranks]
            failed = [number for number, code in enumerate(codes) if code]
            if failed:
                return _end(ranks, failed[0])
            if all(code == 0 for code in codes):
                return 0
            time.sleep(0.05)
    except KeyboardInterrupt:  # the terminal has told the ranks too
        _let_end(ranks)
        raise
    finally:
        for process, _ in ranks:
            process.kill()
            process.wait()


def _end(ranks: Sequence[Rank], failed: int) -> int:
    """The failed rank's exit code, after the others had a moment to end for the same reason."""
    _let_end(ranks)
    code = ranks[failed][0].returncode
    first_spoke = ranks[0][0].returncode not in (None, 0)
    words = ranks[failed][1].read_text(encoding="utf-8", errors="replace")[-SAID:]
    if words and not first_spoke:
        sys.stderr.write(f"rank {failed} ended with code {code}; the last it said:\n{words}\n")
    return code if code > 0 else 128 - code


def _let_end(ranks: Sequence[Rank]) -> None:
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(process.poll() is None for process, _ in ranks):
        time.sleep(0.05)


@contextmanager
def _sigterm_passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(*_: object) -> None:
        for process in processes:
            process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
