"""No point is lost if the tracking server is killed or does not respond."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from r1omni.config import TrackingParams
from r1omni.loopback import read_secret
from r1omni.tracking.curves import Curves, Row
from r1omni.tracking.guard import USER
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


def history(tracking: TrackingParams) -> list[tuple[str, int, float]]:
    """The status of the one run, with step and value of every point."""
    client, experiment = open_client(tracking)
    (run,) = client.search_runs([experiment])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return [(run.info.status, point.step, point.value) for point in points]


@pytest.mark.slow
def test_a_server_that_hangs_and_one_that_dies_get_every_point_once(
    project: Path, tracking: TrackingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", read_secret(secret_path(tracking)))
    remote = tracking.model_copy(update={"uri": f"http://127.0.0.1:{port}"})
    with serving(tracking, port) as server:
        line = open_run("grpo", tracking=remote, params={}, state=project / "run.json")
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
    with serving(tracking, port):
        run.log(4, {"train/loss": 0.0625})
        line.__exit__(None, None, None)
    expected = [("FINISHED", step, 0.5**step) for step in range(1, 5)]
    assert history(tracking) == expected


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
