"""MLflow's pages on this machine, for this user alone, and links to the important ones."""

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from r1omni.config import TrackingParams
from r1omni.loopback import HOST, check_port, listeners, read_secret
from r1omni.tracking.guard import APP, SECRET_FILE, USER
from r1omni.tracking.store import (
    SQLITE,
    artifact_address,
    artifact_root,
    ensure_store,
    project_root,
)

STARTUP_SECONDS = 120.0
PAGES = {
    "Report": "data/reports/report.html",
    "Data Docs": "data/validation/docs/index.html",
}


def run_ui(tracking: TrackingParams, port: int) -> None:
    """Serve MLflow on 127.0.0.1:`port` until Ctrl-C, and print the important links.

    Everybody on the machine can reach the port, and MLflow's own server lets everybody change runs
    and move aliases. Hence ours asks for the password in .state/mlflow-password (mode 0600).
    Raises PortTaken; ValueError if other users can read the password, or if tracking.uri is a
    server's; RuntimeError with the server's last lines if it does not start.
    """
    console = Console()
    console.print("Starting MLflow (about 10 seconds; Ctrl-C stops it) …")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with serving(tracking, port) as server:
            for name, link in links(port).items():
                console.print(f"{name + ':':<11}{link}", soft_wrap=True, highlight=False)
            console.print(f"Your browser asks for a user name and a password: {USER}, and")
            path = shlex.quote(str(secret_path(tracking)))
            console.print(f"  cat {path}", soft_wrap=True, highlight=False)
            server.wait()
    except KeyboardInterrupt:
        console.print("Stopped.")


def links(port: int) -> dict[str, str]:
    """Title and address of every page that exists now."""
    found = {
        "Models": f"http://{HOST}:{port}/#/models",
        "Runs": f"http://{HOST}:{port}/#/experiments",
    }
    for title, page in PAGES.items():
        path = project_root() / page
        if path.is_file():
            found[title] = path.as_uri()
    return found


def secret_path(tracking: TrackingParams) -> Path:
    """The file with the password of the server's pages."""
    return _state(tracking) / "mlflow-password"


@contextmanager
def serving(tracking: TrackingParams, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an MLflow server on 127.0.0.1:`port` during the block, then stop it and its workers.

    Its clients need USER and the password, in MLFLOW_TRACKING_USERNAME and _PASSWORD.
    """
    check_port(port)
    root = artifact_address(tracking)
    if root is None:
        raise ValueError(f"{tracking.uri} is a server with pages of its own: open it in a browser")
    uri = ensure_store(tracking.uri, tracking.artifacts)
    log = _state(tracking) / "mlflow-ui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    read_secret(secret_path(tracking))  # the server must not start without one
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--app-name", APP, "--workers", "1", "--default-artifact-root", root]
    # Artifacts are files of this disk. The server's upload would write through hard links.
    command += ["--no-serve-artifacts", "--allowed-hosts", f"{HOST}:{port}"]
    command += ["--cors-allowed-origins", f"http://{HOST}:{port}"]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        SECRET_FILE: str(secret_path(tracking)),
        "MLFLOW_BACKEND_STORE_URI": uri,  # no argument: everybody can read those, with a password
    }
    with log.open("wb") as output:
        # Its own session: Ctrl-C reaches only this process, which stops the server's workers too.
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(server, port, log)
        yield server
    finally:
        _stop(server)


def _state(tracking: TrackingParams) -> Path:
    folder = artifact_root(tracking.uri).parent
    return (folder if tracking.uri.startswith(SQLITE) else project_root()) / ".state"


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            # Only our own server: another user's on this port would learn the password.
            mine = (p is not None and os.getpgid(p.pid) == server.pid for p in listeners(port))
            if any(mine):
                with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                    return
        except OSError:  # no answer yet; ProcessLookupError: the listener has just ended
            pass
        time.sleep(0.3)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise RuntimeError(f"MLflow's server did not start; the end of {log}:\n{tail}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
