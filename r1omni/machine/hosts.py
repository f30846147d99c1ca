"""The machines that a hostfile names, and how a rank is started on one of them over ssh.

Such a rank's standard input is its lifeline (lifeline.py): it ends with the stage that holds it, by
whatever signal that came. Imports no torch.
"""

import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from r1omni.machine.lifeline import LIFELINE

PORT = 29500  # where the ranks meet when the first machine is another than this; or MASTER_PORT
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15")
# What a rank elsewhere takes over from this environment; nothing that could hold a
# secret or is this machine's own, as its devices and interfaces are.
SHARED = (
    *("R1OMNI_", "DVC_ROOT", "PYTHON", "OMP_", "MKL_"),
    *("NCCL_", "TORCH_", "PYTORCH_"),
)


@dataclass(frozen=True)
class Host:
    """A machine of the hostfile and how many ranks it takes."""

    name: str
    slots: int


def read_hosts(hostfile: Path) -> list[Host]:
    """The machines in the file's order; the first has rank 0.

    Raises ValueError, with the line, for what is no `host slots=N`, for a machine named twice, for
    an empty file, and for localhost beside other machines, which could not reach it by that name.
    """
    if not hostfile.is_file():
        raise ValueError(f"{hostfile}: machine.hostfile names it, but it is not there")
    hosts: dict[str, Host] = {}
    for number, line in enumerate(hostfile.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        meant = re.fullmatch(r"([^\s-]\S*) slots=([1-9]\d*)", " ".join(words))
        if meant is None:
            raise ValueError(f"{hostfile}:{number}: expected `host slots=N`, found {line!r}")
        name = meant[1]
        if name in hosts:
            raise ValueError(f"{hostfile}:{number}: {name} stands there twice")
        hosts[name] = Host(name, int(meant[2]))
    if not hosts:
        raise ValueError(f"{hostfile}: names no machine")
    if "localhost" in hosts and len(hosts) > 1:
        raise ValueError(f"{hostfile}: the others cannot reach `localhost`; write its name there")
    return list(hosts.values())


def is_here(host: str) -> bool:
    """Whether the name is one of this machine's own addresses."""
    return _free_port(host) is not None


def meeting_point(hosts: Sequence[Host]) -> str:
    """tcp://host:port of the first machine: if it is this one, as the others reach it.

    Its own name often stands for loopback here, so the address is that of the road to another
    machine. Raises ValueError where that is loopback too, or a machine is named by two names.
    """
    first, *others = (host.name.rpartition("@")[2] for host in hosts)  # ssh may be told a user
    port = os.environ.get("MASTER_PORT")
    if not is_here(first):
        return f"tcp://{first}:{port or PORT}"
    for other in others:
        if is_here(other):
            raise ValueError(f"the hostfile names this machine twice: {first} and {other}")
    address = _own_address_towards(others[0]) if others else first
    return f"tcp://{address}:{port or _free_port(address)}"


def over_ssh(host: str, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command that runs `command` on another machine, in the same folder, with a lifeline."""
    taken = {k: v for k, v in os.environ.items() if k.startswith(SHARED)}
    given = {**taken, **environment, LIFELINE: "stdin"}
    words = ["env", *(f"{name}={value}" for name, value in given.items()), *command]
    return [*SSH, host, f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(words)}"]


def interface_towards(host: str) -> str | None:
    """The network interface by which this machine reaches another; None where it has no name."""
    own = _own_address_towards(host)
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == own for known in addresses):
            return str(name)
    return None


def _own_address_towards(host: str) -> str:
    """This machine's address on the road to another. Raises ValueError for a name that is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, PORT))  # sends nothing
        except OSError as error:
            raise ValueError(f"{host}: not to be reached from here: {error}") from error
        address: str = probe.getsockname()[0]
    return address


def _free_port(host: str) -> int | None:
    """A port that is free at one of this machine's addresses; None for another machine's."""
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
    except OSError:
        return None
    return port
