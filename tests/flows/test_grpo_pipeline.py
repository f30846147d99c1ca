import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from flows.grpo_pipeline import StageFailed, grpo_pipeline, reproduce


def task_states(state: Any) -> list[tuple[str, str]]:
    """(stage, state) of a flow run's stages in the order in which they started."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
    mine = [run for run in runs if str(run.flow_run_id) == str(state.state_details.flow_run_id)]
    mine.sort(key=lambda run: run.expected_start_time)
    return [(run.name, run.state.name) for run in mine if run.tags]


@pytest.mark.slow
def test_a_failed_run_says_why_and_the_next_one_goes_on_from_there(
    toy: Path, connected: None
) -> None:
    works = (toy / "train.py").read_text()
    (toy / "train.py").write_text("raise SystemExit('clip dfew/7 has no face')")
    failed = grpo_pipeline(return_state=True)
    assert failed.is_failed()
    error = failed.result(raise_on_failure=False)
    assert isinstance(error, StageFailed)
    assert str(error).startswith("stage grpo: failed")
    assert "clip dfew/7 has no face" in str(error)
    done = ["ingest@dfew", "ingest@mafw", "validate"]
    assert task_states(failed) == [*((name, "Completed") for name in done), ("grpo", "Failed")]
    (toy / "train.py").write_text(works)
    resumed = grpo_pipeline(return_state=True)
    assert task_states(resumed) == [
        *((name, "Cached") for name in done),
        *((name, "Completed") for name in ("grpo", "report", "aside")),
    ]
    assert (toy / "policy").read_text() == "# Table 1"


@flow
def one_stage(name: str, timeout_seconds: float) -> Any:
    """The state of a single stage whose retries don't make the test wait."""
    return reproduce.with_options(retry_delay_seconds=1)(
        name, False, timeout_seconds, return_state=True
    )


@pytest.mark.slow
def test_a_stage_that_takes_too_long_is_stopped(toy: Path, connected: None) -> None:
    (toy / "aside.py").write_text("import time; time.sleep(90)")
    started = time.monotonic()
    error = one_stage("aside", 8.0, return_state=True).result(raise_on_failure=False)
    assert "stage aside: no end after 8 s" in str(error)
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_stage_waits_while_dvc_is_busy(toy: Path, connected: None) -> None:
    slow = "import time; print('at work', flush=True); time.sleep(5)\n"
    (toy / "aside.py").write_text(slow + (toy / "aside.py").read_text())
    command = ["dvc", "repro", "--single-item", "aside"]
    other = subprocess.Popen(command, cwd=toy, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    while "at work" not in other.stdout.readline():
        assert other.poll() is None
    state = one_stage("aside", 60.0)
    other.communicate()
    assert other.returncode == 0
    assert state.name == "Cached"


@pytest.mark.slow
def test_the_deployment_runs_on_a_real_server_and_worker(toy: Path, server_port: int) -> None:
    text = "# Table 1, as measured"
    (toy / "train.py").write_text(f"print('policy trained')\nopen('policy', 'w').write('{text}')\n")
    command = [sys.executable, "-m", "flows.serve", "--run", "--port", str(server_port)]
    command += ["--param", 'targets=["report"]']
    done = subprocess.run(command, cwd=toy, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "grpo" in done.stdout
    assert not (toy / "aside").exists()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server_port}/api/artifacts/filter",
        data=json.dumps({"artifacts": {"key": {"any_": ["table-1"]}}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        tables = [artifact["data"] for artifact in json.load(response)]
    assert text in tables
