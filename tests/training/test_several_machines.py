"""A hostfile of two machines: one stage, one curve, one life."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import toy
import yaml
from forked import Ranks, train
from torch.distributed import DistNetworkError
from two_machines import missing, two_machines

from r1omni.training import ranks
from r1omni.training.hosts import Host, meeting_point, over_ssh, read_hosts
from r1omni.training.journal import read_curves
from r1omni.training.launch import RENDEZVOUS


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two machines with ssh between them."""
    if why := missing():
        pytest.skip(why)
    with two_machines(tmp_path_factory.mktemp("machines")) as found:
        yield found


def project(folder: Path, repo: Path, hosts: list[str], steps: int) -> Path:
    """A folder whose params.yaml trains on the hosts."""
    folder.mkdir()
    (folder / "hosts").write_text("".join(f"{host} slots=1\n" for host in hosts))
    values = yaml.safe_load((repo / "params.yaml").read_text())
    engine = toy.engine_params(hostfile="hosts", processes=1, zero_stage=2, save_every=1000)
    values["engine"] = engine.model_dump(mode="json")
    values["grpo"] = toy.grpo_params(steps=steps).model_dump(mode="json")
    values["held_out"]["clips"] = 0
    values["tracking"] |= {"uri": "sqlite:////proc/none.db", "system_metrics": False}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def begin(machines, folder: Path, world: Path) -> "subprocess.Popen[bytes]":
    """The command that dvc.yaml runs, on the first machine."""
    command = [sys.executable, "-m", "r1omni.cli", "grpo", str(world / "parent"), "out/checkpoint"]
    command += ["--manifest", str(world / "manifest.parquet"), "--training", "out/training"]
    command += ["--features", str(world / "features")]
    with (folder / "said").open("ab") as said:
        environment = {**os.environ, "PATH": machines.path, "DVC_ROOT": str(folder)}
        environment.pop("RANK", None)
        streams = {"stdout": said, "stderr": said, "start_new_session": True}
        return machines.run(command, cwd=folder, env=environment, **streams)


def curves_in(folder: Path) -> Path:
    found = (folder / ".state" / "checkpoint").glob("*/curves.jsonl")
    return next(found, folder / "no curves yet")


def after_steps(process, folder: Path, n: int) -> None:
    """Wait until n steps are in the curves."""
    until = time.monotonic() + 120
    while process.poll() is None and len(read_curves(curves_in(folder))) < n:
        assert time.monotonic() < until, (folder / "said").read_text()[-3000:]
        time.sleep(0.01)
    assert process.poll() is None, (folder / "said").read_text()[-3000:]


def ranks_of(folder: Path) -> list[psutil.Process]:
    """The training processes of a project, on both machines."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "environ"]):
        command = process.info["cmdline"] or []
        ranked = "RANK" in (process.info["environ"] or {})
        if ranked and "r1omni.cli" in command and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def test_two_machines_stop_go_on_and_end_as_one_process_does(machines, repo, world, tmp_path):
    steps = 24
    hosts = [machines.first, machines.second]
    folder = project(tmp_path / "project", repo, hosts, steps)
    process = begin(machines, folder, world)
    after_steps(process, folder, 2)
    here, there = ranks_of(folder)
    assert {rank.environ()["RANK"] for rank in (here, there)} == {"0", "1"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143, (folder / "said").read_text()[-3000:]
    saved = [path.name for path in curves_in(folder).parent.glob("step-*")]
    assert saved == [f"step-{len(read_curves(curves_in(folder))):06d}"]
    assert psutil.wait_procs([here, there], timeout=10)[1] == []

    assert begin(machines, folder, world).wait(timeout=120) == 0, (folder / "said").read_text()
    found = read_curves(folder / "out" / "training" / "curves.jsonl")
    alone = tmp_path / "alone"
    one = Ranks(alone, 1, train, "grpo", world, alone, {"zero_stage": 2}, {"steps": steps})
    assert one.wait() == [0]
    expected = read_curves(alone / "training" / "curves.jsonl")
    assert [row["step"] for row in found] == list(range(1, steps + 1))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("train/loss", "train/kl", "reward/total", "optim/grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-7)


STAGE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from r1omni.training.launch import launch_ranks
engine = SimpleNamespace(processes=1, hostfile=Path("hosts"), restarts=1)
sys.exit(launch_ranks(engine, [sys.executable, "rank.py"]))
"""
RANK = """
import os, pathlib, signal, sys, time
from r1omni.lifeline import LIFELINE, die_with_input
def save(*_):
    if not saved.exists():
        time.sleep(0.5)  # a step is finished first
        saved.touch()
    sys.exit(143)
saved = pathlib.Path("saved-" + os.environ["RANK"])
signal.signal(signal.SIGTERM, save)
if os.environ.pop(LIFELINE, None):
    die_with_input()
pathlib.Path("pid-" + os.environ["RANK"]).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("send", "code", "left"),
    [
        (lambda stage: os.killpg(stage.pid, signal.SIGTERM), 143, ["saved-0", "saved-1"]),
        (lambda stage: stage.kill(), -signal.SIGKILL, []),
    ],
    ids=["SIGTERM to all, as Prefect's cancel", "SIGKILL to the stage"],
)
def test_ranks_on_two_machines_save_or_die_with_their_stage(machines, tmp_path, send, code, left):
    """The ranks do what the command line's do at a signal, and nothing else: they start at once."""
    (tmp_path / "hosts").write_text(f"{machines.first} slots=1\n{machines.second} slots=1\n")
    (tmp_path / "rank.py").write_text(RANK)
    environment = {**os.environ, "PATH": machines.path}
    environment.pop("RANK", None)
    stage = machines.run(
        [sys.executable, "-c", STAGE], cwd=tmp_path, env=environment, start_new_session=True
    )
    until = time.monotonic() + 60
    notes = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    while not all(note.exists() and note.read_text() for note in notes):
        assert time.monotonic() < until
        assert stage.poll() is None
        time.sleep(0.01)
    ranks = [psutil.Process(int(note.read_text())) for note in notes]
    send(stage)
    assert stage.wait(timeout=60) == code
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == left


def test_a_machine_that_does_not_answer_is_named(machines, repo, world, tmp_path):
    folder = project(tmp_path / "project", repo, [machines.first, "10.77.0.9"], 4)
    assert begin(machines, folder, world).wait(timeout=60) == 255
    said = (folder / "said").read_text()
    assert "rank 1 on 10.77.0.9 ended with code 255; the last it said:\nssh: connect" in said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a slots=1\nb slots\n", r"hosts:2: expected `host slots=N`, found 'b slots'"),
        ("a 2\n", r"hosts:1: expected `host slots=N`"),
        ("a slots=0\n", r"hosts:1: expected `host slots=N`"),
        ("-oProxyCommand=x slots=1\n", r"hosts:1: expected `host slots=N`"),
        ("a slots=1\n\na slots=2 # again\n", r"hosts:3: a stands there twice"),
        ("# nobody\n", r"hosts: names no machine"),
        ("localhost slots=1\nb slots=1\n", r"the others cannot reach `localhost`"),
    ],
)
def test_a_hostfile_that_cannot_be_meant_is_refused_with_its_line(tmp_path, text, complaint):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_hosts(tmp_path / "hosts")


def test_a_hostfile_by_hand(tmp_path):
    (tmp_path / "hosts").write_text("one slots=8 # the first\n\ntwo slots=4\n")
    assert read_hosts(tmp_path / "hosts") == [Host("one", 8), Host("two", 4)]


def test_a_rank_elsewhere_gets_its_place_and_no_secret(monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO $HOME")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    *_, host, script = over_ssh("two", ["python", "-m", "x"], {"RANK": "1"})
    assert host == "two"
    assert "'NCCL_DEBUG=INFO $HOME'" in script
    assert " RANK=1 " in script
    assert script.endswith(" python -m x")
    assert "hush" not in script


def test_ranks_meet_at_the_first_machine(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1234")  # 192.0.2.0/24 is nobody's
    assert meeting_point([Host("192.0.2.1", 1), Host("b", 1)]) == "tcp://192.0.2.1:1234"
    monkeypatch.delenv("MASTER_PORT")
    assert meeting_point([Host("me@192.0.2.1", 1)]) == "tcp://192.0.2.1:29500"
    address, _, port = meeting_point([Host("127.0.0.1", 1)]).rpartition(":")
    assert address == "tcp://127.0.0.1"
    assert int(port) > 1023


def test_one_machine_by_two_names_is_refused():
    with pytest.raises(ValueError, match=r"this machine twice: localhost and 127\.0\.0\.1"):
        meeting_point([Host("localhost", 1), Host("127.0.0.1", 1)])


def test_a_rank_that_finds_nobody_at_the_meeting_point_gives_up(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(RENDEZVOUS, meeting_point([Host("127.0.0.1", 1)]))
    monkeypatch.setattr(ranks, "MEETING", timedelta(seconds=1))
    with pytest.raises(DistNetworkError, match=r"127\.0\.0\.1"):
        ranks._store()
