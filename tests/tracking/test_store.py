import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from at_once import run_at_once

from r1omni.config import TrackingParams
from r1omni.tracking.registry import model_directory
from r1omni.tracking.store import (
    StoreUnreachable,
    artifact_root,
    ensure_store,
    open_client,
    resolve_uri,
)

FIRST_USE = """
from r1omni.config import TrackingParams
from r1omni.tracking.store import open_client
tracking = TrackingParams(
    uri="sqlite:///mlflow.db", experiment="r1omni", system_metrics=False, registered_model="m",
    artifacts=None,
)
client, experiment = open_client(tracking)
client.create_run(experiment)
"""


@pytest.mark.parametrize("password", ["secret", "se:cr@et", "s%40cret"])
def test_a_password_in_the_address_is_masked(
    project: Path, tracking: TrackingParams, password: str
) -> None:
    address = f"http://lab:{password}@127.0.0.1:9"
    with pytest.raises(StoreUnreachable) as raised:
        open_client(tracking.model_copy(update={"uri": address}))
    assert password not in str(raised.value)
    assert "http://lab:***@127.0.0.1:9: " in str(raised.value)


def test_a_relative_store_stands_at_dvcs_root_not_in_the_experiments_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", "/somewhere/project")
    assert resolve_uri("sqlite:///mlflow.db") == "sqlite:////somewhere/project/mlflow.db"
    assert artifact_root("sqlite:///mlflow.db") == Path("/somewhere/project/mlartifacts")
    assert resolve_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    monkeypatch.delenv("DVC_ROOT")
    assert resolve_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_look_up_without_a_store_says_so_and_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: TrackingParams
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"models:/m@champion: .* there is no .*/mlflow\.db"):
        model_directory("models:/m@champion", tracking)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_make_one_sound_store(tmp_path: Path) -> None:
    codes, errors = run_at_once(FIRST_USE, [tmp_path, tmp_path])
    assert codes == [0, 0], errors
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        query = "select count(*) from experiments where name = 'r1omni'"
        assert connection.execute(query).fetchone() == (1,)
        assert connection.execute("select count(*) from runs").fetchone() == (2,)
    assert not (tmp_path / "mlflow.db.new").exists()


def test_a_store_is_made_once(project: Path, tracking: TrackingParams) -> None:
    before = (project / "mlflow.db").stat().st_ino
    assert ensure_store(tracking.uri) == f"sqlite:///{project}/mlflow.db"
    assert (project / "mlflow.db").stat().st_ino == before
    _, first = open_client(tracking)
    _, again = open_client(tracking)
    assert first == again


def test_a_database_of_someone_else_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table recipes (name text)")
    with pytest.raises(StoreUnreachable, match=r"mlflow\.db: exists, but is not a complete MLflow"):
        ensure_store(f"sqlite:///{path}")
    path.write_bytes(b"not a database, but long enough to be read as one" * 40)
    with pytest.raises(StoreUnreachable, match=r"mlflow\.db: file is not a database"):
        ensure_store(f"sqlite:///{path}")


def test_a_server_that_is_down_is_named(tracking: TrackingParams) -> None:
    gone = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    with pytest.raises(StoreUnreachable, match=r"http://127\.0\.0\.1:9"):
        open_client(gone)


KILLED_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma cache_size = 1")  # so that the file changes before the commit
connection.execute("begin")
connection.execute("create table half_done as with recursive n(i) as "
                   "(select 1 union all select i + 1 from n where i < 5000) select i from n")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_whose_writer_was_killed_in_a_transaction_is_opened(
    project: Path, tracking: TrackingParams
) -> None:
    """A journal is left beside it, which a read-only connection cannot roll back."""
    _, experiment = open_client(tracking)
    subprocess.run([sys.executable, "-c", KILLED_WRITER, project / "mlflow.db"], check=False)
    assert (project / "mlflow.db-journal").stat().st_size > 0
    _, again = open_client(tracking)
    assert again == experiment
    assert not (project / "mlflow.db-journal").exists()
    with sqlite3.connect(project / "mlflow.db") as connection:
        assert not connection.execute(
            "select name from sqlite_master where name = 'half_done'"
        ).fetchall()
