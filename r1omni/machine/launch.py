"""One stage command, N processes: the stage launches its ranks and waits for them.

Every rank runs this very command again, with RANK and WORLD_SIZE in its environment. On one machine
they meet at a file, so no port is taken. With a hostfile, ranks of other machines are started over
ssh (hosts.py) and meet the others at a port of the first machine; all machines then need the
repository, its environment and data/ at the same paths, on a shared disk. Wherever a rank runs it
gets the stage's SIGTERM, and dies with the stage. Where the kernel kills a rank, the stage starts
its ranks again, which go on from their last state. Whoever sets RANK beforehand (torchrun,
deepspeed) has launched the ranks already. Imports no torch.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from r1omni.config import MachineParams
from r1omni.machine.hosts import (
    Host,
    is_here,
    meeting_point,
    over_ssh,
    read_hosts,
)
from r1omni.machine.lifeline import TERM, die_with_parent

RENDEZVOUS = "R1OMNI_RENDEZVOUS"  # where the ranks find each other: a file, or tcp://host:port
SAID = 2000  # characters of a failed rank's last words that are repeated
GRACE = 5.0  # seconds that ranks have to end by themselves once one has failed
PEER_LOST = 75  # the exit code of a rank that ended because another one did
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the latter as a remote shell reports it
# gloo's words ("Connection reset by peer", "Broken pipe"), and torch's errors for NCCL's.
LOST_WORDS, LOST_TYPES = ("by peer", "Broken pipe"), ("DistBackendError", "DistNetworkError")


@dataclass(frozen=True)
class Rank:
    """One rank's process here, or the ssh that holds it."""

    process: subprocess.Popen[bytes]
    host: str
    said: Path  # what it wrote, but for rank 0, which writes to the terminal

    def terminate(self) -> None:
        """SIGTERM, wherever it runs."""
        if self.process.stdin is None:
            self.process.terminate()
            return
        with suppress(BrokenPipeError, ValueError):  # it has ended
            self.process.stdin.write(TERM)
            self.process.stdin.flush()


def launch_ranks(machine: MachineParams, command: Sequence[str] | None = None) -> int | None:
    """The exit code of the ranks' runs, or None where this process is to train by itself.

    `command`: what each rank runs; without it, this process's own command. The ranks die with this
    process; SIGTERM is passed on to them; when one fails the others are ended, and what the failed
    one said last is repeated on standard error. Where one was killed (SIGKILL, which is how the
    kernel ends who takes too much memory) all start again, machine.restarts times at most. Raises
    ValueError for a hostfile that is not there or not understood.
    """
    if "RANK" in os.environ or (machine.processes == 1 and machine.hostfile is None):
        return None
    own = command or [sys.executable, "-m", "r1omni.cli", *sys.argv[1:]]
    hosts = [Host("localhost", machine.processes)]
    if machine.hostfile is not None:
        hosts = read_hosts(machine.hostfile)
    for left in range(machine.restarts, -1, -1):
        with tempfile.TemporaryDirectory(prefix="r1omni-ranks-") as name:
            ranks = _start(own, hosts, Path(name))
            with _sigterm_passed_on(ranks) as stopping:
                code = _wait(ranks)
        if code != 128 + signal.SIGKILL or not left or stopping():
            break
        sys.stderr.write(f"going on from the last state (machine.restarts: {left} left)\n")
    return code


def lost_peer(error: BaseException) -> bool:
    """Whether a rank's error says no more than that another rank has ended."""
    said = any(words in str(error) for words in LOST_WORDS)
    return said or type(error).__name__ in LOST_TYPES


def _start(command: Sequence[str], hosts: Sequence[Host], folder: Path) -> list[Rank]:
    meet = {RENDEZVOUS: str(folder / "rendezvous")}
    if len(hosts) > 1 or not is_here(hosts[0].name):
        meet = {RENDEZVOUS: meeting_point(hosts)}
    elif sys.platform == "linux":
        meet["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    ranks: list[Rank] = []
    size = sum(host.slots for host in hosts)
    for host in hosts:
        here = is_here(host.name)
        for slot in range(host.slots):
            number = len(ranks)
            environment = {
                "RANK": str(number),
                "LOCAL_RANK": str(slot),
                "WORLD_SIZE": str(size),
                "LOCAL_WORLD_SIZE": str(host.slots),
                **meet,
            }
            own = list(command) if here else over_ssh(host.name, command, environment)
            said = folder / f"rank-{number}"
            process = _popen(own, environment, said, quiet=number > 0, held=not here)
            ranks.append(Rank(process, host.name, said))
    return ranks


def _popen(
    command: Sequence[str], extra: Mapping[str, str], said: Path, *, quiet: bool, held: bool
) -> subprocess.Popen[bytes]:
    """Start it to die with this process; a quiet one writes to the file `said` alone.

    `held`: its standard input is a pipe from this process.
    """
    with said.open("wb") as file:
        return subprocess.Popen(
            command,
            env={**os.environ, **extra},
            stdin=subprocess.PIPE if held else None,
            stdout=file if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            preexec_fn=_hold if held else die_with_parent,
        )


def _hold() -> None:
    """For an ssh: SIGTERM to all of the stage's processes is for ranks, which save; not for it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()


def _wait(ranks: Sequence[Rank]) -> int:
    """0 when all have ended well, else the first failure's code, with the others ended."""
    try:
        while True:
            codes = [rank.process.poll() for rank in ranks]
            if any(codes):
                return _end(ranks)
            if all(code == 0 for code in codes):
                return 0
            time.sleep(0.05)
    except KeyboardInterrupt:  # the terminal has told the ranks too
        _let_end(ranks)
        raise
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
            if rank.process.stdin is not None:
                with suppress(BrokenPipeError):
                    rank.process.stdin.close()


def _end(ranks: Sequence[Rank]) -> int:
    """The exit code of the rank that failed by itself, which is named, with the others ended."""
    _let_end(ranks)
    codes = {n: rank.process.returncode for n, rank in enumerate(ranks) if rank.process.returncode}
    # A killed rank is a cause; one that lost contact to another, or aborts for it, a consequence.
    failed = min(codes, key=lambda n: (codes[n] not in KILLED, codes[n] == PEER_LOST, n))
    code, who = codes[failed], f"rank {failed} on {ranks[failed].host}"
    words = ranks[failed].said.read_text(encoding="utf-8", errors="replace")[-SAID:]
    if code in KILLED:
        sys.stderr.write(f"{who} was killed (SIGKILL: out of memory?)\n")
    elif failed > 0:  # rank 0 writes to the terminal itself
        sys.stderr.write(f"{who} ended with code {code}; the last it said:\n{words}\n")
    return code if code > 0 else 128 - code


def _let_end(ranks: Sequence[Rank]) -> None:
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(rank.process.poll() is None for rank in ranks):
        time.sleep(0.05)


@contextmanager
def _sigterm_passed_on(ranks: Sequence[Rank]) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come and been passed on, as a function."""
    came: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        came.append(number)
        for rank in ranks:
            rank.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
