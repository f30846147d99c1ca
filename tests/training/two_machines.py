"""Two network namespaces as two machines on one disk: own addresses, own loopback, ssh between.

sshd answers in the second where it is installed; else a stand-in for ssh enters the namespace.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ETC = Path("/etc/netns")  # where iproute2 looks for a namespace's own /etc/hosts
STAND_IN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
host=$1; shift
[ "$host" = beta ] || { echo "ssh: connect to host $host port 22: refused" >&2; exit 255; }
exec ip netns exec @NAME@ sh -c "$*"
"""
REAL = """#!/bin/sh
exec @SSH@ -F none -i @KEY@ -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \\
    -o LogLevel=ERROR "$@"
"""


@dataclass(frozen=True)
class Machines:
    """The first runs stages; both are named as a hostfile names them."""

    name: str
    first: str
    second: str
    path: str  # with an ssh that reaches the second

    def run(self, command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        """Start a command on the first machine."""
        inside = ["ip", "netns", "exec", f"{self.name}a", *command]
        return subprocess.Popen(inside, **options)  # type: ignore[call-overload,no-any-return]


def missing() -> str | None:
    """Why there can be no two machines here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs Linux, root and iproute2 for network namespaces"
    name = f"r1t{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@contextmanager
def two_machines(folder: Path) -> Iterator[Machines]:
    """Both machines, until the block ends."""
    name = f"r1m{os.getpid()}"
    first, second = "10.77.0.1", "10.77.0.2"
    # each takes its own name for loopback, as Debian writes it
    known = {"a": f"127.0.1.1 alpha\n{second} beta\n", "b": f"{first} alpha\n127.0.1.1 beta\n"}
    for end, hosts in known.items():
        (ETC / f"{name}{end}").mkdir(parents=True)
        (ETC / f"{name}{end}" / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    try:
        for words in (
            f"netns add {name}a",
            f"netns add {name}b",
            f"link add va netns {name}a type veth peer name vb netns {name}b",
            f"-n {name}a addr add {first}/24 dev va",
            f"-n {name}b addr add {second}/24 dev vb",
            *(f"-n {name}{end} link set {link} up" for end in "ab" for link in ("lo", f"v{end}")),
        ):
            subprocess.run(["ip", *words.split()], check=True)
        ssh = _ssh(folder, f"{name}b")
        yield Machines(name, "alpha", "beta", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    finally:
        for end in "ab":
            inside = ["ip", "netns", "pids", f"{name}{end}"]
            for pid in subprocess.run(inside, capture_output=True, text=True).stdout.split():
                subprocess.run(["kill", "-9", pid], check=False)
            subprocess.run(["ip", "netns", "del", f"{name}{end}"], check=False)
            shutil.rmtree(ETC / f"{name}{end}")


def _ssh(folder: Path, namespace: str) -> Path:
    """An `ssh` in a folder of its own."""
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir(parents=True)
    sshd, client = shutil.which("sshd", path="/usr/sbin:/usr/bin"), shutil.which("ssh")
    if sshd and client:
        script = REAL.replace("@SSH@", client).replace(
            "@KEY@", str(_serve(folder, namespace, sshd))
        )
    else:
        script = STAND_IN.replace("@NAME@", namespace)
    ssh.write_text(script)
    ssh.chmod(0o755)
    return ssh


def _serve(folder: Path, namespace: str, sshd: str) -> Path:
    """The key that sshd takes in the namespace."""
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    pid = folder / "pid"
    options = {
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": pid,
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
    }
    words = [word for pair in options.items() for word in ("-o", f"{pair[0]}={pair[1]}")]
    subprocess.run(["ip", "netns", "exec", namespace, sshd, "-f", "/dev/null", *words], check=True)
    until = time.monotonic() + 10
    while not pid.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return folder / "user"
