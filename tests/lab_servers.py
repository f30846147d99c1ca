"""PostgreSQL and an S3 server for a test, on loopback and free ports, with nothing left behind."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

INSTALLED = map(str, Path("/usr/lib/postgresql").glob("*/bin"))  # Debian's; not on PATH
FOLDERS = os.pathsep.join([os.environ["PATH"], *INSTALLED])
USER = "lab"
PASSWORD = "a-secret"


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of an empty database. Skips the test where PostgreSQL is not installed."""
    initdb, server = (shutil.which(name, path=FOLDERS) for name in ("initdb", "postgres"))
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (initdb and postgres)")
    # It refuses to run as root. A short folder: the name of a socket has at most 107 characters.
    user = "nobody" if os.geteuid() == 0 else None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        made = [initdb, "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", "--no-sync"]
        made += ["--pwfile", folder / "password", "--encoding", "UTF8", "--locale", "C"]
        subprocess.run(made, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        options = ["-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [server, *options], user=user, cwd=folder, stdout=log, stderr=log
            )
        try:
            _wait_for(port, process)
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM would wait for every client
            process.wait(timeout=30)


@contextmanager
def s3_server(bucket: str) -> Iterator[dict[str, str]]:
    """The environment by which clients find an S3 server with one empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        environment = {
            "AWS_ACCESS_KEY_ID": "lab",
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
            "MLFLOW_S3_ENDPOINT_URL": address,
        }
        keys = {"aws_access_key_id": "lab", "aws_secret_access_key": PASSWORD}
        boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys).create_bucket(
            Bucket=bucket
        )
        yield environment
    finally:
        server.stop()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start")
