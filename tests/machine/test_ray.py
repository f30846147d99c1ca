"""Ingestion and features on a Ray cluster of two nodes, one of which dies: the same bytes."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clip_files import LIMITS, write_clip
from lab_servers import free_port

from r1omni.corpora.ingestion.ingest import run_ingest
from r1omni.corpora.known import find_corpus
from r1omni.machine.ray_cluster import OtherCode, run_on_ray
from r1omni.model import features
from r1omni.model.features import run_features
from r1omni.stages import data, training

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

NODE = ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
HEAD = ["--head", "--include-dashboard=false"]
N_CLIPS = 24


@pytest.fixture
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """The address of two nodes on this machine, and the second one's process."""
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # a socket's name has at most 107 characters
    before = {process.pid for process in psutil.process_iter()}
    port = free_port()
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", *NODE]
    try:
        subprocess.run([*start, *HEAD, f"--port={port}", f"--temp-dir={folder}"], check=True)
        first = _raylets(before)
        subprocess.run([*start, f"--address=127.0.0.1:{port}"], check=True)
        (second,) = _raylets(before) - first
        yield f"127.0.0.1:{port}", second
    finally:
        ray.shutdown()
        ours = [p for p in psutil.process_iter() if p.pid not in before and _is_rays(p)]
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _is_rays(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()[:4]
    except psutil.Error:
        return False
    parts = ("ray::", "/ray/core/", "/ray/_private/", "/ray/dashboard/", "/ray/autoscaler/")
    return any(part in word for word in words[:3] for part in parts)


def _raylets(before: set[int]) -> set[psutil.Process]:
    return {p for p in psutil.process_iter() if p.pid not in before and p.name() == "raylet"}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_cluster_gives_the_same_bytes_though_a_node_dies(
    cluster, tiny, params, tmp_path, monkeypatch
) -> None:
    address, second = cluster
    machine = params.machine.model_copy(update={"engine": "ray", "ray_address": address})
    monkeypatch.setattr(data, "FILES_OF_A_TASK", 3)
    monkeypatch.setattr(features, "SHARD_CLIPS", 2)
    root, checkpoint = tmp_path / "raw", tmp_path / "checkpoint"
    root.mkdir()
    lines = ["path,label,split"]
    for number in range(N_CLIPS):
        write_clip(root / f"{number}.mp4", seed=number)
        lines.append(f"{number}.mp4,happy,train")
    (root / "broken.mp4").write_bytes(b"no film")
    (root / "clips.csv").write_text("\n".join([*lines, "broken.mp4,happy,train", ""]))
    tiny.model.save_pretrained(checkpoint)
    tiny.processor.save_pretrained(checkpoint)

    def run(name: str, probe=None, elsewhere=None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        manifest = folder / "m.parquet"
        how = {"ingest": params.ingest, "limits": LIMITS, "workers": 1, "elsewhere": probe}
        table = find_corpus("table")
        run_ingest(root, manifest, folder / "r.parquet", corpus=table, fold=1, **how)
        run_features(manifest, root, checkpoint, folder / "out/mine", batch_size=2, workers=1,
                     min_free_gb=0.0, limits=LIMITS, device="cpu", elsewhere=elsewhere)  # fmt: skip
        return folder

    def kill_second() -> None:
        shards = tmp_path / "cluster/.state/features/mine"
        while len(list(shards.glob("*.safetensors"))) < 3:
            time.sleep(0.01)
        second.kill()

    alone = run("alone")
    killer = threading.Thread(target=kill_second, daemon=True)
    killer.start()
    shared = run("cluster", data._on_ray(machine, LIMITS), training._on_ray(machine))
    killer.join(timeout=1)
    assert not second.is_running() and not killer.is_alive()
    for name in ("m.parquet", "r.parquet"):
        assert (shared / name).read_bytes() == (alone / name).read_bytes()
    assert len(list((shared / "out/mine").glob("*.safetensors"))) == N_CLIPS / 2
    assert _files(shared / "out/mine") == _files(alone / "out/mine")

    monkeypatch.setattr("r1omni.machine.ray_cluster.code_at_start", lambda: {"model/x.py": "new"})
    with pytest.raises(OtherCode, match=r"has another version of .*: all nodes of the Ray cluster"):
        list(run_on_ray(len, ["item"], address=address, cpus=1))


def test_without_a_cluster_or_without_ray_it_is_said(monkeypatch) -> None:
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127\.0"):
        list(run_on_ray(len, ["item"], address=f"127.0.0.1:{free_port()}", cpus=1))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs an extra .*'\.\[ray\]'"):
        list(run_on_ray(len, ["item"], address=None, cpus=1))
