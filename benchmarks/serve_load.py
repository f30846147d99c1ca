"""`r1omni serve` under load: latency, lost requests, refusals, memory.

    python -m benchmarks.serve_load                     # in a project with a champion
    python -m benchmarks.serve_load --page docs/how-to/serve.md   # writes the table there, too

16 clients send 200 requests of one file each, half by path and half by bytes. Every tenth file is
broken. Each answer must equal `r1omni predict --json`'s, and each broken file be refused by its
reason; otherwise the command fails.
"""

import argparse
import base64
import datetime
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from media_cases import write_media  # noqa: E402

from benchmarks.bench import commit_id  # noqa: E402
from benchmarks.full_size import processor_name  # noqa: E402

REQUESTS, CLIENTS, BROKEN_EVERY = 200, 16, 10
MARKS = ("<!-- serve_load -->", "<!-- /serve_load -->")
REASONS = {"cut": "cannot be decoded", "text": "is text, not media", "huge": "ingest.max_pixels"}


def main() -> None:
    """Start the server, send the requests, check the answers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models:/r1-omni@champion")
    parser.add_argument("--clips", type=Path, default=Path("data/synthetic/ravdess"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--page", type=Path, help="write the table between the page's marks")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="r1omni-load-") as temporary:
        folder = Path(temporary)
        files = write_files(folder, options.clips)
        expected = predicted(options, folder, files)
        with server(options, folder) as (port, process), peak_memory(process) as peak:
            ask(port, {"path": files[0]})  # the first request loads libraries
            others = os.getloadavg()[0]
            began = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as clients:
                answered = list(clients.map(lambda i: request(port, folder, files[i], i),
                                            range(REQUESTS)))  # fmt: skip
            seconds = time.perf_counter() - began
    n_refused = check(files, [answer for answer, _ in answered], expected)
    table = render([latency for _, latency in answered], seconds, n_refused, peak, others)
    sys.stdout.write(table)
    if options.page:
        before, _, rest = options.page.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        text = f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}"
        options.page.write_text(text, encoding="utf-8")


def write_files(folder: Path, clips: Path) -> list[str]:
    """The names of the requests' files; every tenth is cut, text, or of too many pixels."""
    found = sorted(clips.rglob("*.mp4"))
    if len(found) < REQUESTS:
        raise SystemExit(f"{clips}: {len(found)} clips, expected {REQUESTS}; pass --clips FOLDER")
    names = []
    for i, clip in enumerate(found[:REQUESTS]):
        kind = list(REASONS)[i // BROKEN_EVERY % 3] if i % BROKEN_EVERY == 0 else "clip"
        names.append(f"{i:03}-{kind}.mp4")
        new = folder / names[-1]
        if kind == "cut":
            new.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        elif kind == "text":
            new.write_text("not a clip\n" * 100)
        elif kind == "huge":
            write_media(new, n=1, size=(6144, 4096), acodec=None)
        else:
            shutil.copy(clip, new)
    return names


def predicted(options: argparse.Namespace, folder: Path, files: list[str]) -> dict[str, Any]:
    """What `r1omni predict --json` says of each file, by name."""
    command = [sys.executable, "-m", "r1omni.cli", "predict", "--json", "--model", options.model]
    command += ["--params", str(options.params), *(str(folder / name) for name in files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(line["file"]).name: line for line in lines}


@contextmanager
def server(options: argparse.Namespace, folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server whose media root is `folder`, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "r1omni.cli", "serve", "--port", str(port)]
    command += ["--model", options.model, "--media-root", str(folder)]
    process = subprocess.Popen([*command, "--params", str(options.params)])
    try:
        while process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def peak_memory(process: psutil.Process) -> Iterator[dict[str, float]]:
    """MiB at most, sampled: of the server, and of it with its decoding processes (PSS)."""
    peak = {"server": 0.0, "all": 0.0}
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            own = process.memory_full_info().pss / 2**20
            total = own
            for child in process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    total += child.memory_full_info().pss / 2**20
            peak["server"], peak["all"] = max(peak["server"], own), max(peak["all"], total)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        stop.set()
        sampler.join()


def request(port: int, folder: Path, name: str, number: int) -> tuple[Any, float]:
    """The answer to one file, and its seconds."""
    row = {"path": name}
    if number % 2:
        row = {"bytes": base64.b64encode((folder / name).read_bytes()).decode()}
    began = time.perf_counter()
    return ask(port, row), time.perf_counter() - began


def ask(port: int, row: dict[str, str]) -> Any:
    """The server's answer to one row."""
    body = json.dumps({"dataframe_records": [row]}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=600) as response:
        (answer,) = json.loads(response.read())["predictions"]
    return answer


def check(files: list[str], answers: list[Any], expected: dict[str, Any]) -> int:
    """The number of refused files. Raises AssertionError if an answer is not the expected one."""
    n_refused = 0
    for name, answer in zip(files, answers, strict=True):
        kind = re.sub(r"\d+-|\.mp4", "", name)
        assert {**answer, "file": None} == {**expected[name], "file": None}, (name, answer)
        if kind != "clip":
            assert REASONS[kind] in answer["refused"], (name, answer)
            n_refused += 1
    return n_refused


def render(
    latencies: list[float], seconds: float, n_refused: int, peak: dict[str, float], others: float
) -> str:
    """The results as a Markdown table."""
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    rows = {
        "requests, clients": f"{REQUESTS}, {CLIENTS}",
        "lost": REQUESTS - len(latencies),
        "answers equal to `r1omni predict --json`": REQUESTS - n_refused,
        "broken files, each refused by its reason": n_refused,
        "latency p50, p95, p99": f"{p50:.2f} s, {p95:.2f} s, {p99:.2f} s",
        "files per second": f"{REQUESTS / seconds:.1f}",
        "peak memory of the server": f"{peak['server']:.0f} MiB",
        "peak memory with its decoding processes": f"{peak['all']:.0f} MiB",
        "machine": f"{processor_name()}, Python {platform.python_version()}",
        "load average before the requests": f"{others:.1f}",
        "commit, date": f"{commit_id()}, {datetime.date.today()}",
    }
    lines = ["| load test | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
