"""Files behind URLs: a local server stands for a public host, hostile ones included."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from r1omni.inference.fetching import fetch, is_public


class Host(BaseHTTPRequestHandler):
    """Each path is another kind of host."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path == "/cut":
            self.send_header("Content-Length", "100")
        self.end_headers()
        with suppress(OSError):  # the client has left
            for _ in range(30 if self.path == "/slow" else 1):
                self.wfile.write(b"clip")
                self.wfile.flush()
                time.sleep(0.1 * (self.path == "/slow"))

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetched(url: str, into: Path, max_bytes: int = 4, seconds: float = 5.0) -> bytes:
    fetch(url, into, schemes=["http"], max_bytes=max_bytes, seconds=seconds, allowed=lambda _: True)
    return into.read_bytes()


def test_a_file_is_fetched(host: str, tmp_path: Path) -> None:
    assert fetched(f"{host}/a.mp4?b=c", tmp_path / "a") == b"clip"


@pytest.mark.parametrize(
    ("path", "limits", "said"),
    [
        ("/redirect", {}, "answered 302; redirects are not followed"),
        ("/missing", {}, "answered 404"),
        ("/cut", {}, "ended 96 bytes too early"),
        ("/a.mp4", {"max_bytes": 3}, "has more than 3 bytes"),
        ("/slow", {"max_bytes": 999, "seconds": 0.35}, "was not fetched within 0.35 s"),
    ],
)
def test_a_host_that_is_hostile_or_slow_is_given_up(
    host: str, path: str, limits: dict[str, float], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        fetched(f"{host}{path}", tmp_path / "a", **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://127.0.0.1/a", "https is not fetched, only http"),
        ("http:///a", "expected SCHEME://HOST/PATH"),
        ("http://me:secret@127.0.0.1/a", "without a user"),
        ("http://127.0.0.1:1/a", "cannot be fetched: .*refused"),
        ("http://[::1]/a", "cannot be fetched"),
        ("http://127.0.0.1:99999/a", "out of range"),
        ("http://no-such-host.invalid/a", "cannot be fetched"),
    ],
)
def test_an_address_that_is_none_is_said(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        fetched(url, tmp_path / "a")


def test_only_public_addresses_are_fetched_from(host: str, tmp_path: Path) -> None:
    private = "127.0.0.1 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 "
    private += "224.0.0.1 255.255.255.255 198.18.0.1 192.0.2.1 240.0.0.1"
    assert not any(is_public(IPv4Address(address)) for address in private.split())
    assert is_public(IPv4Address("151.101.1.1"))
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 is no public host"):
        fetch(f"{host}/a", tmp_path / "a", schemes=["http"], max_bytes=4, seconds=5.0)
    assert not (tmp_path / "a").exists()
