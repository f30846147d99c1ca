"""MLflow's store in PostgreSQL and its files in S3, as several machines of a lab share them."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from at_once import run_at_once
from lab_servers import PASSWORD, free_port, postgresql, s3_server
from mlflow import MlflowClient

from r1omni.config import TrackingParams
from r1omni.loopback import read_secret
from r1omni.tracking.guard import USER
from r1omni.tracking.registry import model_directory
from r1omni.tracking.store import StoreUnreachable, open_client
from r1omni.tracking.ui import secret_path, serving

PIPELINE = """
import sys
from pathlib import Path

from made_up_model import write_model
from r1omni.config import TrackingParams
from r1omni.tracking.registry import run_register
from r1omni.tracking.runs import open_run

uri, number = os.environ["LAB"], sys.argv[1]
tracking = TrackingParams(uri=uri, artifacts="s3://lab/mlflow", experiment="r1omni",
                          system_metrics=False, registered_model="r1-omni")
paths = write_model(Path.cwd(), "grpo", weights=number.encode() * 1000)
with open_run("grpo", tracking=tracking, params={}, state=Path("run.json")) as run:
    for step in range(1, 41):
        run.log(step, {"train/loss": 1 / step})
    run.finish(paths["checkpoint"], paths["training"])
for _ in range(2):
    run_register(**paths, name="grpo", tracking=tracking)
"""


def in_database(uri: str, artifacts: str | None = "s3://lab/mlflow") -> TrackingParams:
    return TrackingParams(
        uri=uri,
        artifacts=artifacts,
        experiment="r1omni",
        system_metrics=False,
        registered_model="r1-omni",
    )


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a database, and the environment of an S3 server with the bucket `lab`."""
    with postgresql() as uri, s3_server("lab") as environment:
        yield uri, environment


def test_four_pipelines_at_once_lose_and_double_nothing(
    lab: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first use makes the tables; each registers its checkpoint twice."""
    uri, environment = lab
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("LAB", uri)
    folders = [tmp_path / number for number in "0123"]
    for folder in folders:
        folder.mkdir()
    codes, errors = run_at_once(PIPELINE, folders)
    assert codes == [0] * 4, errors[-3000:]
    assert "training goes on without MLflow" not in errors
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    client, experiment = open_client(in_database(uri))
    versions = client.search_model_versions("name = 'r1-omni'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3, 4]
    assert len({version.tags["content_hash"] for version in versions}) == 4
    runs = client.search_runs([experiment])
    assert {run.info.run_id for run in runs} == {version.run_id for version in versions}
    for run in runs:
        assert run.info.status == "FINISHED"
        steps = [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(1, 41))
    weights = "data/checkpoints/grpo/model.safetensors"
    written = {(folder / weights).read_bytes() for folder in folders}
    for version in versions:  # downloaded, and its content hash checked
        model = model_directory(f"models:/r1-omni/{version.version}", in_database(uri))
        written.remove((model / "model.safetensors").read_bytes())
    assert not written


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own tries wait up to 51 s between them."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"waits for {seconds} s")

    monkeypatch.setattr("mlflow.store.db.utils.time.sleep", refuse)


def test_a_database_that_is_down_is_named_at_once_without_its_password(no_waiting: None) -> None:
    uri = f"postgresql://lab:{PASSWORD}@127.0.0.1:{free_port()}/mlflow"
    with pytest.raises(StoreUnreachable, match=r"^postgresql://lab:\*\*\*@.*refused") as raised:
        open_client(in_database(uri))
    assert PASSWORD not in str(raised.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ValueError, match=r"needs a driver: .*psycopg2.*'\.\[postgresql\]'"):
        open_client(in_database("postgresql://127.0.0.1/mlflow"))


def test_a_database_without_a_place_for_files_is_refused(lab: tuple[str, Any]) -> None:
    """Its users would each look for the files in their own project."""
    uri, _ = lab
    elsewhere = in_database(uri, None).model_copy(update={"experiment": "another"})
    with pytest.raises(ValueError, match=r"tracking\.artifacts in params must say where") as raised:
        open_client(elsewhere)
    assert PASSWORD not in str(raised.value)
    here = in_database(uri, "s3://lab/here").model_copy(update={"experiment": "another"})
    open_client(here)
    open_client(elsewhere)  # the experiment knows its place
    there = here.model_copy(update={"artifacts": "s3://lab/there"})
    with pytest.raises(StoreUnreachable, match=r"in s3://lab/here, not in s3://lab/there"):
        open_client(there)


def test_dvcs_cache_is_pushed_to_s3_and_pulled(
    lab: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    for key, value in lab[1].items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    where = f"url = s3://lab/dvc\nendpointurl = {lab[1]['AWS_ENDPOINT_URL']}\n"
    remote = f"['remote \"lab\"']\n{where}"
    (tmp_path / ".dvc/config").write_text(f"[core]\nno_scm = true\nremote = lab\n{remote}")
    (tmp_path / "checkpoint").write_bytes(b"w" * 1000)
    with Repo(str(tmp_path)) as repo:
        repo.add("checkpoint")
        assert repo.push() == 1
        (tmp_path / "checkpoint").unlink()
        shutil.rmtree(tmp_path / ".dvc/cache")
        repo.pull()
    assert (tmp_path / "checkpoint").read_bytes() == b"w" * 1000


def test_its_pages_are_served_without_the_password_among_the_arguments(
    lab: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tracking = in_database(lab[0]).model_copy(update={"experiment": "pages"})
    open_client(tracking)
    port = free_port()
    with serving(tracking, port) as server:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert not [p for p in family if PASSWORD in " ".join(p.cmdline())]
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", read_secret(secret_path(tracking)))
        through = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        assert through.get_experiment_by_name("pages").artifact_location == "s3://lab/mlflow"
