"""`predict` on several ranks: whole batches in turn, one file, the bytes of a single process."""

from dataclasses import replace
from pathlib import Path

import pytest
import toy
from forked import Ranks

from r1omni.config import PredictParams
from r1omni.corpora.clip import write_manifest
from r1omni.corpora.sets import Member
from r1omni.evaluation.predict import run_predict
from r1omni.evaluation.predict_held_out import run_predict_held_out
from r1omni.evaluation.predictions import read_predictions
from r1omni.stages import command
from r1omni.training_config import HeldOutParams

ASKED = {"predict": PredictParams(max_new_tokens=4), "batch_size": 2, "device": "cpu"}


def member_of(world: Path, folder: Path, split: str) -> Member:
    manifest = folder / f"{split}.parquet"
    if not manifest.exists():
        write_manifest([replace(toy.clip_at(i), split=split) for i in range(toy.CLIPS)], manifest)
    return Member("dfew", manifest, world / "features", toy.LABELS, "")


def ask(world: Path, manifests: Path, out: Path, processes: int) -> None:
    """Both stages' tables below `out`, in as many ranks as this process's launcher made."""
    command.join_ranks_on_devices(toy.machine_params(processes=processes, device="cpu"))
    tested, learned = (member_of(world, manifests, split) for split in ("test", "train"))
    run_predict(world / "parent", [tested], out / "tested.parquet", **ASKED)
    held_out = HeldOutParams(clips=3, seed=1, every=1)
    run_predict_held_out(
        world / "parent", [learned], out / "held.parquet", held_out=held_out, **ASKED
    )


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_write_what_one_process_writes(world, tmp_path, n_ranks):
    """7 clips in batches of 2: an odd number. Of 3 held-out clips the third rank has none."""
    for split in ("test", "train"):
        member_of(world, tmp_path, split)
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    ask(world, tmp_path, alone, 1)
    codes = Ranks(tmp_path / "ranks", n_ranks, ask, world, tmp_path, together, n_ranks).wait(120.0)
    assert codes == [0] * n_ranks, (tmp_path / "ranks/said-1").read_text()[-2000:]
    rows = read_predictions(together / "tested.parquet")
    assert [row.clip_id for row in rows] == [f"clip-{i}" for i in range(toy.CLIPS)]
    assert len({row.logprob for row in rows}) == toy.CLIPS  # each clip has its own answer
    for name in ("tested.parquet", "held.parquet"):
        assert (together / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.parametrize(
    ("device", "n_devices", "processes", "launches"),
    [
        ("cuda", 4, 4, True),
        ("auto", 8, 2, True),
        ("auto", 1, 2, False),  # they would share it
        ("cpu", 4, 4, False),
        ("cuda", 1, 1, False),
    ],
)
def test_ranks_are_started_only_where_each_has_a_device(
    monkeypatch, device, n_devices, processes, launches
):
    started = []
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("r1omni.machine.device.count_devices", lambda: n_devices)
    monkeypatch.setattr(command, "launch_or_go_on", started.append)
    machine = toy.machine_params(processes=processes, device=device)
    command.join_ranks_on_devices(machine)
    assert started == [machine] * launches
