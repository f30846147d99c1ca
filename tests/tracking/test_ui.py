import json
import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.config import TrackingParams
from r1omni.tracking.registry import run_register
from r1omni.tracking.ui import PortTaken, links, serving

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HEADLESS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--virtual-time-budget=10000",
]


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
        api = f"http://127.0.0.1:{port}/api/2.0/mlflow"
        with urllib.request.urlopen(f"{api}/registered-models/get?name=r1-omni") as response:
            model = json.load(response)["registered_model"]
        assert model["latest_versions"][0]["version"] == "1"
        if CHROMIUM is not None:
            page = _rendered(CHROMIUM, links(port)["Models"], project)
            assert "r1-omni" in page
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)
    if CHROMIUM is None:
        pytest.skip("no chromium here: the page itself was not looked at, only the server's answer")


def _rendered(chromium: str, url: str, folder: Path) -> str:
    profile = f"--user-data-dir={folder / 'chromium'}"
    done = subprocess.run(
        [chromium, *HEADLESS, profile, "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout
