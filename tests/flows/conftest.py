"""A small real DVC repository, and one real Prefect server for all tests of the flows."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["DO_NOT_TRACK"] = "true"

REPOSITORY = Path(__file__).parents[2]
PIPELINE = """
stages:
  ingest:
    foreach: [dfew, mafw]
    do:
      cmd: python -c "print('ingesting ${item}'); open('${item}', 'w').write('${item}')"
      outs: ["${item}"]
  validate:
    cmd: python -c "open('valid', 'w').write(open('dfew').read() + open('mafw').read())"
    deps: [dfew, mafw]
    outs: [valid]
  grpo:
    cmd: python train.py
    deps: [valid, train.py]
    outs: [policy]
  report:
    cmd: python -c "import shutil; shutil.copy('policy', 'data/reports/table1.md')"
    deps: [policy]
    outs: [data/reports/table1.md]
  aside:
    cmd: python aside.py
    outs: [aside]
"""
WRITE_POLICY = "open('policy', 'w').write('# Table 1')\n"
WRITE_ASIDE = "open('aside', 'w').write('beside the phases')\n"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository before anything has been run."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("template")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    Repo.init(str(root)).close()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "train.py").write_text(WRITE_POLICY)
    (root / "aside.py").write_text(WRITE_ASIDE)
    (root / "data" / "reports").mkdir(parents=True)
    shutil.copy(REPOSITORY / "prefect.yaml", root)
    shutil.copytree(REPOSITORY / "flows", root / "flows")
    return root


@pytest.fixture
def toy(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own; the current directory."""
    return enter_copy(template, tmp_path / "toy", monkeypatch)


def enter_copy(template: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`root`, with the template's files in it, as the current directory."""
    shutil.copytree(template, root, dirs_exist_ok=True)
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(root)
    return root


@dataclass(frozen=True)
class PrefectServer:
    """A running server, the folder it serves, and the environment in which clients reach it."""

    root: Path
    port: int
    environment: dict[str, str]

    @property
    def api(self) -> str:
        return self.environment["PREFECT_API_URL"]

    @property
    def auth(self) -> str:
        return self.environment["PREFECT_API_AUTH_STRING"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server with its own home, on the loopback; its scheduler looks every second."""
    from flows.serve import prefect_environment, server

    root, port = tmp_path_factory.mktemp("served"), free_port()
    environment = prefect_environment(root, port)
    often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1"}
    with server(environment | often, port):
        yield PrefectServer(root, port, environment)


@pytest.fixture
def connected(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[None]:
    """Flows that are called in this test report to that server."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_HOME,
        temporary_settings,
    )

    settings = {PREFECT_API_URL: prefect_server.api, PREFECT_API_AUTH_STRING: prefect_server.auth}
    with temporary_settings({**settings, PREFECT_HOME: tmp_path / ".prefect"}):
        yield
