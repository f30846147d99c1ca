import asyncio
import base64
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.config import TrackingParams
from r1omni.loopback import PortTaken, read_secret
from r1omni.tracking.guard import USER, require_password
from r1omni.tracking.registry import run_register
from r1omni.tracking.ui import links, secret_path, serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@pytest.mark.slow
def test_the_registry_page_shows_the_model(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    run_register(**trained("grpo", war=0.625), name="grpo", tracking=tracking)
    port = free_port()
    with serving(tracking, port) as server:
        secret = read_secret(secret_path(tracking))
        own = f"http://127.0.0.1:{port}"
        known = {"Authorization": f"Basic {base64.b64encode(f'{USER}:{secret}'.encode()).decode()}"}
        page = f"{own}/api/2.0/mlflow/registered-models/get?name=r1-omni"
        status, model = answer(page, known)
        assert status == 200
        assert json.loads(model)["registered_model"]["latest_versions"][0]["version"] == "1"
        # Another user of the machine, a page elsewhere, a page of another port, a foreign name.
        assert answer(page, {})[0] == 401
        search = f"{own}/api/2.0/mlflow/experiments/search"
        for headers, expected in (
            (known | {"Origin": own}, 200),
            ({"Origin": own}, 401),
            (known | {"Origin": "https://example.org"}, 403),
            (known | {"Origin": "http://localhost:9"}, 403),
            (known | {"Host": f"example.org:{port}"}, 403),
        ):
            assert answer(search, headers, b'{"max_results": 1}')[0] == expected, headers
        upload = f"{own}/api/2.0/mlflow-artifacts/artifacts/grpo.txt"
        assert answer(upload, known, b"written by the server", method="PUT")[0] == 503
        assert not list(project.rglob("grpo.txt"))
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


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


def answer(
    url: str, headers: dict[str, str], body: bytes | None = None, *, method: str | None = None
) -> tuple[int, bytes]:
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, {**kind, **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
