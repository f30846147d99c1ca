"""A disk that is full while a training runs: one clear error, or none; nothing is lost."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import kills
import pytest
import toy
from forked import Ranks, stage, train

from r1omni.machine.state_folders import move_into_place
from r1omni.machine.states import StateNotWritten


@pytest.fixture
def disk(tmp_path):
    """A file system of 24 MiB of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """The file that fills the disk up but for some bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def test_a_state_that_finds_no_room_is_named_and_the_one_before_it_continues(world, disk, tmp_path):
    folder = disk / "out"

    def log(step, _metrics):
        if step == 3:
            fill(disk, leave=32_768)

    with pytest.raises(StateNotWritten) as raised:
        train("grpo", world, folder, {"save_every": 2}, {"steps": 6}, log)
    message = str(raised.value)
    assert "the state after update 4 could not be written" in message
    assert "0 MiB are free there" in message
    assert message.endswith("step-000002")
    states = [path.name for path in toy.state_in(folder).iterdir() if path.is_dir()]
    assert sorted(states) == ["rollouts", "step-000002"]

    (disk / "filler").unlink()
    resumed = []
    train("grpo", world, folder, {"save_every": 2}, {"steps": 6}, lambda n, _: resumed.append(n))
    assert resumed == [1, 2, 3, 4, 5, 6]  # two of them told again from the curves
    train("grpo", world, tmp_path / "alone", {"save_every": 2}, {"steps": 6})
    weights = Path("checkpoint") / "model.safetensors"
    assert (folder / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    assert kills.curves(folder) == kills.curves(tmp_path / "alone")


def test_a_finished_folder_is_put_on_another_disk(disk, tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "weights").write_text("new")
    (disk / "data" / "checkpoint").mkdir(parents=True)
    (disk / "data" / "checkpoint" / "old").touch()
    move_into_place(tmp_path / "partial", disk / "data" / "checkpoint")
    assert [p.name for p in (disk / "data").iterdir()] == ["checkpoint"]
    assert [p.name for p in (disk / "data" / "checkpoint").iterdir()] == ["weights"]
    assert not (tmp_path / "partial").exists()


def test_a_store_on_a_full_disk_gets_every_point_once_there_is_room(world, disk, tmp_path):
    from r1omni.tracking.store import ensure_store

    ensure_store(f"sqlite:///{disk / 'mlflow.db'}")
    filler = fill(disk, leave=0)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mlflow.db").symlink_to(disk / "mlflow.db")
    ranks = Ranks(folder, 1, stage, "grpo", world, folder, {}, {"steps": 12})
    while ranks.alive and len(toy.steps_in(folder)) < 5:  # it trains all the same
        time.sleep(0.001)
    assert ranks.alive
    filler.unlink()
    assert ranks.wait() == [0], (folder / "said-0").read_text()[-3000:]
    runs, points = kills.mlflow_points(folder)
    assert runs == ["FINISHED"]
    assert [step for key, step, _ in points if key == "train/loss"] == list(range(1, 13))
