import asyncio
import base64
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import REPOSITORY, WRITE_POLICY, PrefectServer, enter_copy
from made_up_model import write_model
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.workers.process import ProcessJobConfiguration
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.access import write_profile
from flows.grpo_pipeline import StageFailed, grpo_pipeline, reproduce
from flows.serve import POOL_TEMPLATE
from r1omni.config import Params
from r1omni.tracking.registry import run_register

TASK_RUNS = "select id, name, state_name from task_run"
SERVED_POOL = "select base_job_template from work_pool where name not like 'pool-%'"
REGISTER = """
  register:
    foreach: [grpo]
    do:
      cmd: python -c "import shutil; shutil.copy('receipt.json', 'data/registry/${item}.json')"
      deps: [data/reports/table1.md, receipt.json]
      outs: ["data/registry/${item}.json"]
"""


def leave_one_corpus(root: Path) -> None:
    """A pipeline without mafw: each stage is a `dvc repro` of its own."""
    text = (root / "dvc.yaml").read_text()
    shorter = text.replace("[dfew, mafw]", "[dfew]").replace(" + open('mafw').read()", "")
    (root / "dvc.yaml").write_text(shorter)
    assert "mafw" not in shorter


def task_states(state: Any) -> list[tuple[str, str]]:
    """(stage, state) of a flow run's stages, in all its phases, in the order of their start."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
    parent = str(state.state_details.flow_run_id)
    phases = [run for run in runs if str(run.flow_run_id) == parent]
    flows = {str(run.state.state_details.child_flow_run_id) for run in phases}
    mine = [run for run in runs if str(run.flow_run_id) in flows]
    mine.sort(key=lambda run: run.expected_start_time)
    return [(run.name, run.state.name) for run in mine if run.tags]


@pytest.mark.slow
def test_a_failed_run_says_why_and_the_next_one_goes_on_from_there(
    toy: Path, connected: None
) -> None:
    leave_one_corpus(toy)
    works = (toy / "train.py").read_text()
    (toy / "train.py").write_text("raise SystemExit('clip dfew/7 has no face')")
    failed = grpo_pipeline(return_state=True)
    assert failed.is_failed()
    error = failed.result(raise_on_failure=False)
    assert isinstance(error, StageFailed)
    assert str(error).startswith("stage grpo: failed")
    assert "clip dfew/7 has no face" in str(error)
    done = ["ingest@dfew", "validate"]
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
    """The state of a single stage, with retries after 0 s."""
    return reproduce.with_options(retry_delay_seconds=1)(
        name, False, timeout_seconds, return_state=True
    )


@pytest.mark.slow
def test_a_stage_that_takes_too_long_is_stopped(toy: Path, connected: None) -> None:
    (toy / "aside.py").write_text("import time; time.sleep(900)")
    started = time.monotonic()
    error = one_stage("aside", 4.0, return_state=True).result(raise_on_failure=False)
    assert "stage aside: no end after 4 s" in str(error)
    assert time.monotonic() - started < 300


@pytest.mark.slow
def test_a_stage_waits_while_dvc_is_busy(toy: Path, connected: None) -> None:
    slow = "import time; print('at work', flush=True); time.sleep(5)\n"
    (toy / "aside.py").write_text(slow + (toy / "aside.py").read_text())
    command = ["dvc", "repro", "--single-item", "aside"]
    other = subprocess.Popen(command, cwd=toy, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    while "at work" not in other.stdout.readline():
        assert other.poll() is None
    state = one_stage("aside", 300.0)
    other.communicate()
    assert other.returncode == 0
    assert state.name == "Cached"


def rows_of(database: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows that the query selects in Prefect's database."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_the_deployment_runs_what_changed_shows_the_rest_as_cached_and_applies_the_gate(
    prefect_server: PrefectServer,
    template: Path,
    empty_store: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`python -m flows.serve --run`: its worker runs the flow from the folder that it serves."""
    root = enter_copy(template, prefect_server.root, monkeypatch)
    leave_one_corpus(root)
    shutil.copy(REPOSITORY / "params.yaml", root)
    shutil.copy(empty_store, root / "mlflow.db")
    paths = write_model(root, "grpo", war=0.625)
    run_register(**paths, name="grpo", tracking=params.tracking)
    paths["receipt"].rename(root / "receipt.json")
    with (root / "dvc.yaml").open("a") as pipeline:
        pipeline.write(REGISTER)
    subprocess.run(["dvc", "repro", "--quiet"], cwd=root, check=True)
    (root / "train.py").write_text(f"{WRITE_POLICY}# edited: writes the same")
    database = root / ".prefect/prefect.db"  # other tests' runs are in it too
    before = {number for number, _, _ in rows_of(database, TASK_RUNS)}
    command = [sys.executable, "-m", "flows.serve", "--run", "--port", str(prefect_server.port)]
    command += ["--param", 'targets=["register"]']
    deployed = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
    assert deployed.returncode == 0, deployed.stdout[-3000:] + deployed.stderr[-3000:]
    runs = rows_of(database, TASK_RUNS)
    artifacts = dict(rows_of(database, "select key, data from artifact"))
    ((job,),) = rows_of(database, SERVED_POOL)
    stages = ("ingest@dfew", "validate", "grpo", "report", "register@grpo")
    states = {
        name: state
        for number, name, state in runs
        if number not in before and name in {*stages, "aside"}
    }
    assert states == dict.fromkeys(stages, "Cached") | {"grpo": "Completed"}
    assert json.loads(artifacts["table-1"]) == "# Table 1"
    assert "r1-omni 1 (grpo) is now champion" in artifacts["champion"]
    assert json.loads(job) == json.loads(POOL_TEMPLATE.read_text())


PREFECT = str(Path(sys.executable).with_name("prefect"))
TWO_COMMANDS = """
import json, sys
from prefect.cli import app
names, codes = sys.argv[1:], []
for name in names:
    sys.argv[1:] = ["deployment", "run", name]
    try:
        app()
    except SystemExit as end:
        codes.append(end.code)
sys.stderr.write(json.dumps(codes))
"""  # prefect's own script, for two names


@pytest.mark.slow
def test_in_a_fresh_terminal_a_flows_name_is_enough_if_it_has_one_deployment(
    prefect_server: Any, connected: None, tmp_path: Path
) -> None:
    """`prefect deployment run NAME` as README says. The run itself is in the test above."""
    shutil.copy(Path(__file__).parents[2] / "prefect.toml", tmp_path)
    profile = write_profile(prefect_server.environment)
    (tmp_path / ".prefect").mkdir()
    shutil.copy(profile, tmp_path / ".prefect")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300
        )

    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("one-stage")
        client.create_deployment(flow, "first")
        started = run(PREFECT, "deployment", "run", "one-stage")
        assert started.returncode == 0, started.stdout + started.stderr
        assert "for deployment 'one-stage/first'" in " ".join(started.stdout.split())
        client.create_deployment(flow, "second")
    (tmp_path / "prefect").write_text(TWO_COMMANDS)
    refused = run(sys.executable, str(tmp_path / "prefect"), "one-stage", "nonsense")
    assert refused.returncode == 0, refused.stderr
    ambiguous, unknown = json.loads(refused.stderr.splitlines()[-1])
    assert ambiguous == "one-stage has 2 deployments: choose one-stage/first or one-stage/second"
    assert (unknown, "Deployment 'nonsense' not found!" in refused.stdout) == (1, True)


def post(url: str, body: Any, **headers: str) -> tuple[int, Message]:
    """The status and the headers of the server's answer to a program that is not Prefect's."""
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=data, headers={**kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


@pytest.mark.slow
def test_who_does_not_know_the_secret_starts_nothing(prefect_server: Any) -> None:
    runs = f"{prefect_server.api}/flow_runs/"
    guess = base64.b64encode(b"r1omni:guess").decode()
    assert post(runs, {"flow_id": str(uuid4())})[0] == 401
    assert post(runs, {"flow_id": str(uuid4())}, Authorization=f"Basic {guess}")[0] == 401
    events = prefect_server.api.replace("http", "ws", 1) + "/events/in"
    with pytest.raises(InvalidStatus), connect(events):
        pass


@pytest.mark.slow
def test_only_the_servers_own_page_may_read_its_answers(prefect_server: Any) -> None:
    own = f"http://127.0.0.1:{prefect_server.port}"
    for origin, allowed in (
        ("https://example.org", None),
        ("http://localhost:9", None),
        (own, own),
    ):
        headers = post(f"{prefect_server.api}/flow_runs/filter", {}, Origin=origin)[1]
        assert headers["access-control-allow-origin"] == allowed


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", [{"command": "touch /tmp/x"}, {"env": {"PYTHONPATH": "/"}}, {"working_dir": "/"}]
)
def test_a_run_cannot_choose_command_environment_or_folder(
    connected: None, variables: dict[str, Any]
) -> None:
    template = json.loads(POOL_TEMPLATE.read_text())
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name=f"pool-{uuid4()}", type="process", base_job_template=template)
        client.create_work_pool(pool)
        flow_id = client.create_flow_from_name("one-stage")
        deployment = client.create_deployment(flow_id, "locked", work_pool_name=pool.name)
        with pytest.raises(PrefectHTTPStatusError, match="422"):
            client.create_flow_run_from_deployment(deployment, job_variables=variables)
    # A server that let it pass would change nothing: the worker has no place for it.
    made = ProcessJobConfiguration.from_template_and_values(template, variables)
    configuration = asyncio.run(made)
    assert (configuration.command, configuration.env, configuration.working_dir) == (None, {}, None)


@pytest.mark.slow
def test_a_schedule_makes_runs(connected: None) -> None:
    """With SQLAlchemy 2.1 it made none, and only the server's log showed the error."""
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("one-stage")
        every_two_minutes = DeploymentScheduleCreate(schedule=CronSchedule(cron="*/2 * * * *"))
        deployment = client.create_deployment(flow_id, "cron", schedules=[every_two_minutes])
        wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
        deadline = time.monotonic() + 180
        while not (runs := client.read_flow_runs(flow_run_filter=wanted)):
            assert time.monotonic() < deadline, "no run was scheduled"
            time.sleep(0.3)
        client.delete_deployment(deployment)
    assert {run.state_name for run in runs} == {"Scheduled"}
    assert all(run.auto_scheduled for run in runs)


@pytest.mark.slow
def test_changed_params_are_an_experiment_of_their_own(toy: Path, connected: None) -> None:
    (toy / "params.yaml").write_text("grpo:\n  kl_coef: 0.04\n")
    stage = (
        "stages:\n  grpo:\n    cmd: cp params.yaml policy\n    params: [grpo.kl_coef]\n"
        "    outs: [policy]\n"
    )
    (toy / "dvc.yaml").write_text(stage)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(toy)]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "start"], check=True)
    state = grpo_pipeline(set=["grpo.kl_coef=0.1"], return_state=True)
    assert state.is_completed(), state.message
    (ref,) = _experiments(toy)
    assert ref.rpartition("/")[2].startswith("grpo-kl_coef-0-1-")
    tried = subprocess.run(["git", "show", f"{ref}:params.yaml"], capture_output=True)
    assert b"kl_coef: 0.1" in tried.stdout
    assert "0.04" in (toy / "params.yaml").read_text()
    assert not (toy / "policy").exists()


def _experiments(repository: Path) -> list[str]:
    """What `dvc exp list` lists: a ref of each, refs/exps/AB/CDEF.../NAME."""
    shown = ["git", "-C", str(repository), "for-each-ref", "--format=%(refname)", "refs/exps"]
    refs = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()
    return [ref for ref in refs if len(ref.split("/")) == 5]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"targets": ["gpro"]}, "|label_sft|grpo|"),
        ({"set": ["grpo.kl_coef"]}, "set.0: String should match pattern"),
        ({"set": ["grpo.kl_coeff=0.1"]}, "params.yaml has no 'kl_coeff' there; known: steps"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(
    toy: Path, connected: None, parameters: dict[str, Any], reason: str
) -> None:
    (toy / "params.yaml").write_text("grpo:\n  steps: 3\n")
    failed = grpo_pipeline(**parameters, return_state=True)
    assert failed.is_failed()
    assert reason in str(failed.message)
    assert not (toy / "policy").exists()


def test_the_deployments_schema_names_the_known_stages() -> None:
    """So `prefect deployment run --param targets='["gpro"]'` prints them and starts nothing."""
    items = grpo_pipeline.parameters.properties["targets"]["anyOf"][0]["items"]
    assert "|grpo|" in items["pattern"]
    assert re.match(items["pattern"], "predict@grpo")
    assert not re.match(items["pattern"], "gpro")
