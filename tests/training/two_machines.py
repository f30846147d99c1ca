"""Two network namespaces as two machines on one disk: own addresses, own loopback."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ETC = Path("/etc/netns")  # where iproute2 looks for a namespace's own /etc/hosts
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # sched.h
MS_BIND, MS_REC, MS_SLAVE = 1 << 12, 1 << 14, 1 << 19  # sys/mount.h


@dataclass(frozen=True)
class Machines:
    """Both are reached by an address; each has one interface beside its loopback."""

    name: str
    first: str  # the first one's address

    def enter(self, end: str) -> None:
        """Put the calling process on the machine a or b, as `ip netns exec` does."""
        with Path("/run/netns", f"{self.name}{end}").open() as namespace:
            _checked("setns", namespace.fileno(), CLONE_NEWNET)
        _checked("unshare", CLONE_NEWNS)
        _checked("mount", b"none", b"/", None, MS_REC | MS_SLAVE, None)
        hosts = str(ETC / f"{self.name}{end}" / "hosts").encode()
        _checked("mount", hosts, b"/etc/hosts", b"none", MS_BIND, None)


def _checked(name: str, *arguments: object) -> None:
    """A call of libc; raises OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


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
def two_machines() -> Iterator[Machines]:
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
        yield Machines(name, first)
    finally:
        for end in "ab":
            inside = ["ip", "netns", "pids", f"{name}{end}"]
            for pid in subprocess.run(inside, capture_output=True, text=True).stdout.split():
                subprocess.run(["kill", "-9", pid], check=False)
            subprocess.run(["ip", "netns", "del", f"{name}{end}"], check=False)
            shutil.rmtree(ETC / f"{name}{end}")
