"""MLflow's server: whom it answers, and no point is lost if it is killed or does not respond."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_up_model import write_model

from r1omni.config import TrackingParams
from r1omni.loopback import read_secret
from r1omni.tracking.curves import Curves, Row
from r1omni.tracking.guard import USER
from r1omni.tracking.registry import run_register
from r1omni.tracking.runs import open_run
from r1omni.tracking.store import open_client
from r1omni.tracking.ui import secret_path, serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_free(port: int) -> None:
    """Wait until the last of a killed server's workers has gone."""
    for _ in range(100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return
        time.sleep(0.1)


@dataclass(frozen=True)
class Pages:
    """A running server of a project whose registry has one model."""

    project: Path
    tracking: TrackingParams
    port: int
    server: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Pages]:
    """One for the file, as it takes 8 CPU seconds to start. Its last test kills it."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(empty_store, project / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("DVC_ROOT", str(project))
        tracking = TrackingParams(
            uri="sqlite:///mlflow.db", artifacts=None, experiment="r1omni", system_metrics=False,
            registered_model="r1-omni",
        )  # fmt: skip
        run_register(**write_model(project, "grpo", war=0.625), name="grpo", tracking=tracking)
        port = free_port()
        with serving(tracking, port) as server:
            yield Pages(project, tracking, port, server)


def history(tracking: TrackingParams) -> list[tuple[str, int, float]]:
    """The status of the one run, with step and value of every point."""
    client, experiment = open_client(tracking)
    (run,) = client.search_runs([experiment])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return [(run.info.status, point.step, point.value) for point in points]


@pytest.mark.slow
def test_the_registry_page_shows_the_model(pages: Pages) -> None:
    port = pages.port
    secret = read_secret(secret_path(pages.tracking))
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
    assert not list(pages.project.rglob("grpo.txt"))


def test_a_point_that_arrives_twice_is_one(project: Path, tracking: TrackingParams) -> None:
    """The first batch arrived late, so the second did not see it in the store."""
    client, experiment = open_client(tracking)
    run_id = client.create_run(experiment).info.run_id
    rows = [Row(step, {"train/loss": value}, 1000 + step) for step, value in ((1, 0.5), (2, 0.25))]
    late, again = Curves(client, run_id), Curves(client, run_id)
    assert late.deliver(rows[:1]) == 1
    assert again.deliver(rows) == 2
    points = client.get_metric_history(run_id, "train/loss")
    assert [(p.step, p.value, p.timestamp) for p in points] == [(1, 0.5, 1001), (2, 0.25, 1002)]


@pytest.mark.slow
def test_a_server_that_hangs_and_one_that_dies_get_every_point_once(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, server = pages.port, pages.server
    tracking = pages.tracking.model_copy(update={"experiment": "killed"})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", read_secret(secret_path(tracking)))
    remote = tracking.model_copy(update={"uri": f"http://127.0.0.1:{port}"})
    line = open_run("grpo", tracking=remote, params={}, state=pages.project / "run.json")
    run = line.__enter__()
    run.log(1, {"train/loss": 0.5})
    assert run.flush()
    os.killpg(server.pid, signal.SIGSTOP)  # the kernel still accepts connections
    run.log(2, {"train/loss": 0.25})
    with monkeypatch.context() as impatient:
        impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        assert not run.flush()
    os.killpg(server.pid, signal.SIGCONT)  # it answers the waiting requests, whose client left
    assert run.flush(at_once=True)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    run.log(3, {"train/loss": 0.125})
    assert not run.flush(at_once=True)
    until_free(port)
    with serving(tracking, port) as server:
        run.log(4, {"train/loss": 0.0625})
        line.__exit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)
    expected = [("FINISHED", step, 0.5**step) for step in range(1, 5)]
    assert history(tracking) == expected


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
