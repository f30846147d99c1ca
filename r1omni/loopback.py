"""Servers on 127.0.0.1 that serve one user: everybody on the machine can reach their ports.

A server is ours if a process of ours listens on the port. A client is ours if it knows the secret.
"""

import fcntl
import os
import secrets
import socket
import stat
from pathlib import Path
from tempfile import NamedTemporaryFile

import psutil  # type: ignore[import-untyped]

HOST = "127.0.0.1"
ANY = ("0.0.0.0", "::")  # a listener on these addresses also receives requests to HOST
SECRET_BYTES = 32


class PortTaken(ValueError):
    """Something else listens on the port; the message says how to choose another."""


def read_secret(path: Path) -> str:
    """The secret in the file, which is created with mode 0600 if it is missing.

    Raises ValueError if other users can read the file or have written it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # two simultaneous first starts get the same secret
        if not path.exists():
            write_private(path, secrets.token_urlsafe(SECRET_BYTES) + "\n")
    finally:
        os.close(folder)
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        what = f"mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}"
        raise ValueError(
            f"{path}: expected a password that only you can read, found {what}; "
            "remove the file to get a new password"
        )
    secret = path.read_text(encoding="utf-8").strip()
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"{path}: the password is too short; remove the file to get a new one")
    return secret


def write_private(path: Path, text: str) -> None:
    """Write the file atomically, with mode 0600 from its first byte on."""
    with NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)  # the module tempfile creates files with mode 0600
    Path(file.name).replace(path)


def check_port(port: int) -> None:
    """Raise PortTaken if nobody can listen on HOST:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            message = f"port {port} on {HOST} is taken ({error.strerror}); choose another: --port"
            raise PortTaken(message) from error


def listeners(port: int) -> list[psutil.Process | None]:
    """The processes that listen on HOST:`port`; None stands for another user's process."""
    found: list[psutil.Process | None] = []
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port:
            continue
        if connection.laddr.ip in (HOST, *ANY):
            found.append(_own(connection.pid))
    return found


def _own(pid: int | None) -> psutil.Process | None:
    try:
        process = psutil.Process(pid) if pid is not None else None
        return process if process is not None and process.uids().real == os.getuid() else None
    except psutil.NoSuchProcess:
        return None
