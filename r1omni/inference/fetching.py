"""Files behind addresses that a client of the server names: public hosts only, no redirect.

A server that fetches what it is told can be used to reach its own network (SSRF). Hence the address
is checked after it is resolved, and the connection goes to the very address that was checked.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

PORTS: Final = {"http": 80, "https": 443}
_CHUNK = 2**16


def is_public(address: IPv4Address) -> bool:
    """Whether the address is no loopback, private, link-local, shared or multicast one."""
    return address.is_global and not address.is_multicast


def fetch(
    url: str,
    into: Path,
    *,
    schemes: Sequence[str],
    max_bytes: int,
    seconds: float,
    allowed: Callable[[IPv4Address], bool] = is_public,
) -> None:
    """Write the body behind `url` to the new file `into`.

    Raises ValueError for a scheme that is none of `schemes`, a host with an address that is not
    `allowed`, any answer but 200 (a redirect too), a body of more than `max_bytes`, and after
    `seconds`. IPv4 only: IPv6 has many ways to write a private IPv4 address.
    """
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError(f"{parts.scheme} is not fetched, only {' and '.join(schemes)}")
    if parts.hostname is None or parts.username is not None:
        raise ValueError("expected SCHEME://HOST/PATH, without a user")
    deadline = time.monotonic() + seconds
    try:
        with closing(_connect(parts, allowed, seconds)) as connection:
            # A socket's own time-out counts from the last byte, so a slow host could take hours.
            timer = threading.Timer(seconds, connection.sock.shutdown, (socket.SHUT_RDWR,))
            timer.start()
            try:
                _download(connection, parts, into, max_bytes)
            finally:
                timer.cancel()
    except (OSError, HTTPException) as error:
        if time.monotonic() < deadline:
            raise ValueError(f"cannot be fetched: {error}") from error
    if time.monotonic() >= deadline:
        raise ValueError(f"was not fetched within {seconds:g} s")


def _connect(
    parts: SplitResult, allowed: Callable[[IPv4Address], bool], seconds: float
) -> HTTPConnection:
    """A connection to the first address of the host. Raises ValueError, OSError."""
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    addresses = [str(place[4][0]) for place in found]
    if not all(allowed(IPv4Address(address)) for address in addresses):
        raise ValueError(f"{host} is no public host")
    connection = HTTPConnection(host, port, timeout=seconds)
    connection.sock = socket.create_connection((addresses[0], port), timeout=seconds)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
    return connection


def _download(connection: HTTPConnection, parts: SplitResult, into: Path, max_bytes: int) -> None:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "r1omni", "Accept": "*/*"})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"the host answered {response.status}; redirects are not followed")
    n_bytes = 0
    with into.open("wb") as file:
        while chunk := response.read1(_CHUNK):
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise ValueError(f"has more than {max_bytes:,} bytes")
            file.write(chunk)
    if response.length:
        raise ValueError(f"ended {response.length:,} bytes too early")
