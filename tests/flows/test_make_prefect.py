"""`make prefect` with its history in PostgreSQL: a neighbour, a dead worker, a dead server."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import enter_copy, free_port
from lab_servers import postgresql
from sqlalchemy import create_engine, text

from flows.serve import main


def wait_until(happened: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def child(process: subprocess.Popen[bytes], words: str) -> psutil.Process | None:
    """The child of `make prefect` whose command line has these words."""
    for found in psutil.Process(process.pid).children():
        try:
            if words in " ".join(found.cmdline()):
                return found
        except psutil.NoSuchProcess:
            continue
    return None


def test_it_outlives_its_worker_and_its_server_and_leaves_nothing(
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port, log = free_port(), tmp_path / "log"
    neighbour = enter_copy(template, tmp_path / "neighbour", monkeypatch)
    toy = enter_copy(template, tmp_path / "toy", monkeypatch)
    command = [sys.executable, "-m", "flows.serve", "--port", str(port)]
    with postgresql() as uri, log.open("wb") as output:
        asynchronous = uri.replace("postgresql://", "postgresql+asyncpg://")
        environment = {
            **os.environ,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": asynchronous,
            "COLUMNS": "200",
        }
        serving = subprocess.Popen(command, cwd=toy, env=environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: "To run the pipeline" in log.read_text(), log)
            monkeypatch.chdir(neighbour)
            assert main(["--port", str(port)]) == 1
            said = capsys.readouterr().err
            assert re.search(rf"{port}.*another|another.*{port}", said), said

            worker = child(serving, "worker start")
            assert worker is not None
            private = Path(worker.environ()["TMPDIR"])  # another user may have /tmp/runner_storage
            assert private.stat().st_mode & 0o777 == 0o700

            for name, words in (("worker", "worker start"), ("server", "server start")):
                dead = child(serving, words)
                assert dead is not None, log.read_text()
                dead.kill()
                said = f"Prefect's {name} ended with code -9: starting it again."
                wait_until(lambda said=said: said in log.read_text(), log)
                wait_until(lambda words=words: child(serving, words), log)

            engine = create_engine(uri)
            with engine.connect() as connection:
                count = text("select count(*) from deployment")
                assert connection.execute(count).scalar_one() == 6
            engine.dispose()
            assert not list((toy / ".prefect").glob("*.db"))
        finally:
            family = psutil.Process(serving.pid).children(recursive=True)
            serving.send_signal(signal.SIGINT)
            code = serving.wait(timeout=60)
        assert code == 0, log.read_text()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        assert not private.exists()
