import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.config import TrackingParams
from r1omni.loopback import PortTaken
from r1omni.tracking.guard import require_password
from r1omni.tracking.ui import links, serving


def test_only_pages_that_exist_are_linked(project: Path) -> None:
    assert links(5001) == {
        "Models": "http://127.0.0.1:5001/#/models",
        "Runs": "http://127.0.0.1:5001/#/experiments",
    }
    report = project / "data" / "reports" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<html></html>")
    assert links(5001)["Report"] == report.as_uri()


def test_a_taken_port_is_named(project: Path, tracking: TrackingParams) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} .* is taken"), serving(tracking, port):
            pass


@pytest.mark.parametrize(("port", "bound"), [("0", "1"), ("65536", "65535"), ("99999999", "65535")])
def test_a_port_that_cannot_be_is_refused_with_the_bound(port: str, bound: str) -> None:
    done = CliRunner().invoke(app, ["ui", "--port", port])
    assert done.exit_code == 2
    assert "--port" in done.output and f" {bound} " in done.output


@pytest.mark.parametrize(
    "given", [b"", b"Basic", b"Basic ?", b"Basic cjFvbW5pOmd1ZXNz", b"Bearer s"]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_nothing_passes_the_guard_without_the_password(given: bytes, kind: str) -> None:
    sent: list[Any] = []

    async def app(*_: Any) -> None:
        raise AssertionError("it passed")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    scope = {"type": kind, "path": "/assistant", "headers": [(b"authorization", given)]}
    asyncio.run(require_password(app, "s" * 40)(scope, receive, send))
    assert sent[0].get("status", sent[0].get("code")) == {"http": 401, "websocket": 1008}[kind]
