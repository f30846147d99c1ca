"""`r1omni serve` as its clients see it: answers, batches, limits. One server for the file."""

import base64
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from clip_files import write_clip
from forking import run_module
from made_up_model import write_model
from media_cases import write_media
from test_server import free_port

from r1omni.cli import main
from r1omni.config import TrackingParams
from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import answer_files
from r1omni.inference.options import choose_options
from r1omni.inference.served import JUDGES_FOLDER, MEDIA_ROOT, PARAMS_FILE
from r1omni.lineage import write_provenance
from r1omni.tracking.registry import run_register

REPO = Path(__file__).parents[2]
LIMITS = {"max_requests: 64": "max_requests: 20",
          "max_new_tokens: 64": "max_new_tokens: 6", "max_body_mb: 64": "max_body_mb: 1",
          "max_rows: 64": "max_rows: 4", "url_schemes: []": "url_schemes: [http, https]",
          "predict_batch_size: 64": "predict_batch_size: 3"}  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A running server, its media folder, and what `predict --json` says of the clips there."""

    port: int
    process: BaseProcess
    media: Path
    expected: dict[str, dict[str, Any]]

    def post(self, body: bytes, content_type: str = "application/json", **headers: str) -> Any:
        """The predictions."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations",
            body,
            {"Content-Type": content_type, **headers},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.loads(response.read())["predictions"]

    def ask(self, *rows: dict[str, Any]) -> Any:
        """The predictions for the rows."""
        return self.post(json.dumps({"dataframe_records": rows}).encode())

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()


def serve(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "r1omni.cli", "serve", *arguments]


def environment(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir(exist_ok=True)
    ours = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    return {**os.environ, **ours}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, tiny: Any) -> Path:
    """A project whose version 1 is a real, untrained model."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(empty_store, project / "mlflow.db")
    text = (REPO / "params.yaml").read_text()
    for old, new in LIMITS.items():
        assert text.count(old) >= 1
        text = text.replace(old, new)
    (project / "params.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("DVC_ROOT", str(project))
        paths = write_model(project, "grpo")
        tiny.model.save_pretrained(paths["checkpoint"])
        tiny.processor.save_pretrained(paths["checkpoint"])
        write_provenance(paths["checkpoint"], {"stage": "grpo"})
        tracking = TrackingParams(
            uri="sqlite:///mlflow.db", artifacts=None, experiment="r1omni", system_metrics=False,
            registered_model="r1-omni",
        )  # fmt: skip
        run_register(**paths, name="grpo", tracking=tracking)
    return project


@pytest.fixture(scope="module")
def served(folder: Path, tiny: Any) -> Iterator[Served]:
    media = folder / "media"
    media.mkdir()
    for i in range(6):
        write_clip(media / f"{i}.mp4", seed=i, seconds=0.5 + 0.25 * i)
    (folder / "secret.mp4").write_bytes((media / "0.mp4").read_bytes())
    (media / "escape.mp4").symlink_to(folder / "secret.mp4")
    port = free_port()
    arguments = ["--port", str(port), "--model", "models:/r1-omni/1", "--media-root", str(media)]
    said = folder / "said"
    process = run_module(serve(*arguments), folder, said, environment(folder))
    assert process.pid is not None
    options = choose_options(folder / "params.yaml", False, {})
    answers = answer_files(
        [str(media / f"{i}.mp4") for i in range(6)], tiny, labels=EMOTIONS, limits=options.limits,
        batch_size=options.batch_size, max_new_tokens=options.max_new_tokens,
    )  # fmt: skip
    expected = {Path(a.path).name: json.loads(a.as_json()) for a in answers}  # type: ignore[union-attr]
    served = Served(port, process, media, expected)
    try:
        for _ in range(400):
            with suppress(OSError):
                served.get("/health")
                break
            assert process.is_alive(), said.read_text()
            time.sleep(0.3)
        yield served
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.join(timeout=30)
        assert not process.is_alive()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def status_of(error: pytest.ExceptionInfo[urllib.error.HTTPError]) -> tuple[int, str]:
    return error.value.code, error.value.read().decode()


def test_health_version_and_the_openapi_page(served: Served) -> None:
    import mlflow

    assert served.get("/health")[0] == served.get("/ping")[0] == 200
    assert served.get("/version") == (200, mlflow.__version__.encode())
    page = json.loads(served.get("/openapi.json")[1])
    assert "application/json" in page["paths"]["/invocations"]["post"]["requestBody"]["content"]


def test_clients_that_are_batched_together_get_predicts_answers_to_the_last_digit(
    served: Served,
) -> None:
    """12 requests of one to four rows from eight threads, by path and by bytes."""

    def ask(number: int) -> None:
        names = [f"{(number + i) % 6}.mp4" for i in range(1 + number % 4)]
        rows: list[dict[str, str]] = [{"path": name} for name in names]
        if number % 2:
            rows = [{"bytes": encoded((served.media / name).read_bytes())} for name in names]
        said = served.ask(*rows)
        assert said == [
            {**served.expected[name], "file": row.get("path")}
            for name, row in zip(names, rows, strict=True)
        ]

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, range(12)))


def test_what_is_no_file_below_the_media_root_is_refused_row_by_row(served: Served) -> None:
    rows = ["../secret.mp4", "escape.mp4", "a\0.mp4", "0.mp4"]
    *refused, answered = served.ask(*({"path": row} for row in rows))
    assert [r["refused"] for r in refused] == [
        f"is not below {MEDIA_ROOT}", f"is not below {MEDIA_ROOT}",
        "no path has a null character",
    ]  # fmt: skip
    assert answered["prediction"] == served.expected["0.mp4"]["prediction"]
    for path in (str(served.media.parent / "secret.mp4"), "/etc/passwd", "/proc/self/environ"):
        (said,) = served.ask({"path": path})
        assert said == {"file": path, "refused": f"is not below {MEDIA_ROOT}"}


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/health", "http://localhost:{port}/health", "http://0.0.0.0:{port}/",
     "http://2130706433/", "http://0x7f.1/", "http://169.254.169.254/latest/meta-data",
     "http://10.0.0.1/a.mp4", "https://192.168.0.1/a.mp4", "http://100.64.0.1/", "http://224.0.0.1/"],
)  # fmt: skip
def test_a_url_of_this_machine_or_its_network_is_not_fetched(served: Served, url: str) -> None:
    (said,) = served.ask({"path": url.format(port=served.port)})
    assert said["refused"].endswith("is no public host")


def test_other_schemes_are_not_fetched(served: Served) -> None:
    rows = [{"path": p} for p in ("file:///etc/passwd", "ftp://example.org/a", "concat://0.mp4")]
    for said in served.ask(*rows):
        assert said["refused"].endswith("is not fetched, only http and https")


class Harmful:
    """Unpickling it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmful",)


def test_hostile_bytes_are_refused_by_their_reason(served: Served, tmp_path: Path) -> None:
    bomb = write_media(tmp_path / "bomb.mp4", n=1, size=(4128, 2304), acodec=None).read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    hostile = [pickle.dumps(Harmful()), bomb, playlist, b"<html><script>alert(1)</script>"]
    said = served.ask(*({"bytes": encoded(data)} for data in hostile))
    assert all(set(answer) == {"file", "refused"} for answer in said), said
    assert "cannot be decoded" in said[0]["refused"]
    assert "4128 x 2304 pixels, more than ingest.max_pixels" in said[1]["refused"]
    assert "a playlist (M3U8)" in said[2]["refused"]
    assert "HTML, not media" in said[3]["refused"]
    assert not list(served.media.parent.rglob("harmful"))


def test_more_rows_than_allowed_are_refused(served: Served) -> None:
    said = served.ask(*[{"path": "0.mp4"}] * 5)
    assert "refused" not in said[3]
    assert said[4]["refused"] == "a request may have 4 rows (serve.max_rows)"
    for body in (b'{"dataframe_records": [' + b"{}," * 1000 + b"{}]}", b"[" * 100_000):
        with pytest.raises(urllib.error.HTTPError) as error:
            served.post(body)
        assert status_of(error) == (413, "a request may have 4 rows (serve.max_rows)\n")


def raw(port: int, head: str, body: bytes = b"") -> str:
    """The status line of the answer to a request that is written by hand."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return connection.recv(4096).decode().splitlines()[0]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    head = "POST /invocations HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"
    memory = psutil.Process(served.process.pid).memory_info().rss
    assert " 413 " in raw(served.port, head + "Content-Length: 99999999999")
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"  # one MiB, the largest body
    assert " 413 " in raw(served.port, head + "Transfer-Encoding: chunked", chunk + b"1\r\n \r\n")
    assert psutil.Process(served.process.pid).memory_info().rss < memory + 100 * 2**20


def test_more_requests_than_allowed_are_turned_away_and_later_ones_answered(served: Served) -> None:
    with ExitStack() as connections:
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
            connections.enter_context(connection)
        with pytest.raises(urllib.error.HTTPError) as error:
            served.get("/health")
        assert error.value.code == 503
    for _ in range(50):  # the server notices the closed connections a little later
        with suppress(urllib.error.HTTPError):
            assert served.get("/health")[0] == 200
            return
        time.sleep(0.1)
    raise AssertionError("it turns requests away for ever")


def test_what_is_no_json_and_pages_of_other_servers_are_refused(served: Served) -> None:
    good = json.dumps({"dataframe_records": [{"path": "0.mp4"}]}).encode()
    for content_type in ("application/vnd.apache.parquet", "text/csv", "text/plain"):
        with pytest.raises(urllib.error.HTTPError) as error:
            served.post(good, content_type)
        assert status_of(error)[0] == 415
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(urllib.error.HTTPError) as error:
            served.post(good, **headers)
        assert status_of(error) == (403, "this page belongs to another server\n")
    for body in (b"{", b"\xff", b"[]", b"{}"):
        with pytest.raises(urllib.error.HTTPError) as error:
            served.post(body)
        assert status_of(error)[0] == 400
    assert "refused" not in served.post(good)[0]


def test_a_broken_file_costs_only_its_own_row_and_leaves_nothing_behind(served: Served) -> None:
    whole = (served.media / "3.mp4").read_bytes()
    said = served.ask({"bytes": encoded(whole[: len(whole) // 2])}, {"bytes": encoded(whole)}, {})
    assert "cannot be decoded" in said[0]["refused"]
    assert said[1] == {**served.expected["3.mp4"], "file": None}
    assert said[2]["refused"] == "expected either path or bytes (base64), as text"
    assert not list((served.media.parent / "tmp").glob("r1omni-*"))


def test_what_cannot_be_served_is_one_clear_line(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One command in a process of its own: nothing that it imports may write, either."""
    unknown = ("--model", "models:/r1-omni@nobody")
    command = serve(*unknown, "--port", str(free_port()))
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True, timeout=60
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: models:/r1-omni@nobody:")
    cases = {
        ("--port", str(served.port)): f"error: port {served.port} on 127.0.0.1 is taken",
        ("--model", "data"): "error: data: data has no file MLmodel; expected models:/NAME@ALIAS",
        ("--media-root", "nowhere"): "error: nowhere: is no folder; expected --media-root FOLDER",
    }
    monkeypatch.chdir(folder)
    for name in (PARAMS_FILE, JUDGES_FOLDER, MEDIA_ROOT):
        monkeypatch.setenv(name, "")  # the command sets them
    for arguments, expected in cases.items():
        port = () if "--port" in arguments else ("--port", str(free_port()))
        monkeypatch.setattr(sys, "argv", ["r1omni", "serve", *arguments, *port])
        with pytest.raises(SystemExit, match="1"):
            main()
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(expected)
