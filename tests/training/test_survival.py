"""Killed, stopped, starved of its store or fed nonsense: a training loses nothing and says so."""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import time
from pathlib import Path

import kills
import pandas as pd
import pytest
import toy
from forked import Ranks, stage, train

from r1omni.machine.curves import read_curves
from r1omni.machine.interruption import Stopped
from r1omni.machine.state_folders import remove_finished_states
from r1omni.machine.states import WHOLE, StateDoesNotFit, newest_state, write_state
from r1omni.model.checksums import write_sums
from r1omni.model.feature_store import INDEX
from r1omni.training.engine import Engine, NonFiniteLoss
from r1omni.training.held_out import HeldOutSet


@pytest.mark.parametrize(
    ("kind", "n", "seed", "machine", "params"),
    [  # seeds whose kills come after 4 - 0 -, 2 - and 1 - steps; "-": in the next write
        ("grpo", 4, 6, {}, {"steps": 12, "held_out": 2}),
        ("sft", 2, 7, {}, {"epochs": 4}),
        ("grpo", 2, 1, {"processes": 2, "zero_stage": 2}, {"steps": 8, "held_out": 2}),
    ],
    ids=["grpo", "sft", "grpo-two-processes-zero-2"],
)
def test_a_killed_training_ends_as_if_it_had_been_left_alone(
    world, empty_store, tmp_path, kind, n, seed, machine, params
):
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name / "mlflow.db")
    alone = kills.undisturbed(kind, world, tmp_path / "alone", machine, params)
    told = kills.kill_until_done(
        kind, world, tmp_path / "killed", kills=n, seed=seed, machine=machine, params=params
    )
    killed = tmp_path / "killed"
    assert told.kills == n
    assert told.in_a_write >= 1, told
    for file in sorted(p for p in (alone / "checkpoint").rglob("*") if p.is_file()):
        twin = killed / file.relative_to(alone)
        assert twin.read_bytes() == file.read_bytes(), file.name
    expected = kills.curves(alone)
    assert [row["step"] for row in expected] == list(range(1, len(expected) + 1))
    assert kills.curves(killed) == expected
    if kind == "grpo":
        pd.testing.assert_frame_equal(
            pd.read_parquet(killed / "training" / "rollouts.parquet"),
            pd.read_parquet(alone / "training" / "rollouts.parquet"),
        )
    runs, points = kills.mlflow_points(killed)
    assert runs == ["FINISHED"]
    assert points == kills.mlflow_points(alone)[1]
    assert len({(key, step) for key, step, _ in points}) == len(points)
    if "held_out" in params:
        seen = [step for key, step, _ in points if key == "held_out/war"]
        assert seen == list(range(2, params["steps"] + 1, 2))


def test_sigterm_to_one_rank_saves_the_step_and_the_next_run_continues_there(world, tmp_path):
    """To a single process: two tests below."""
    params = {"steps": 10, "held_out": 2}
    given = (train, "grpo", world, tmp_path, {"processes": 2, "save_every": 1000}, params)
    ranks = Ranks(tmp_path, 2, *given)
    while ranks.alive and len(toy.steps_in(tmp_path)) < 2:
        time.sleep(0.001)
    ranks.terminate(rank=1)  # any one of them
    assert ranks.wait() == [143, 143]
    saved = len(toy.steps_in(tmp_path))
    assert 2 <= saved < 10
    assert [p.name for p in toy.state_in(tmp_path).glob("step-*")] == [f"step-{saved:06d}"]
    assert Ranks(tmp_path, 2, *given).wait() == [0, 0]
    rows = read_curves(tmp_path / "training" / "curves.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 11))


def test_a_training_killed_between_its_end_and_dvcs_note_of_it_repeats_only_the_last_steps(
    world, tmp_path
):
    machine, params = {"save_every": 4}, {"steps": 6}
    train("grpo", world, tmp_path, machine, params)  # and the stage dies before it drops its state
    weights = tmp_path / "checkpoint" / "model.safetensors"
    expected = weights.read_bytes()
    for name in ("checkpoint", "training"):  # as DVC does with outputs that it did not see end
        shutil.rmtree(tmp_path / name)
    state = toy.state_in(tmp_path)
    (state / "step-000004" / "kept").touch()  # a new training would write it anew
    train("grpo", world, tmp_path, machine, params)
    assert (state / "step-000004" / "kept").exists()
    assert weights.read_bytes() == expected
    remove_finished_states(toy.paths_in(tmp_path))
    assert [p.name for p in state.parent.iterdir()] == ["times.jsonl"]


def poisoned(world: Path, folder: Path, where: int) -> Path:
    """The world with one clip whose features are not numbers, as a tower would have made them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(world, folder)
    path = folder / "features" / "0.safetensors"
    tensors = load_file(path)
    start, end = tensors["audio.offsets"][where : where + 2].tolist()
    tensors["audio"][start:end] = float("nan")
    names = json.dumps([toy.clip_at(i).clip_id for i in range(toy.CLIPS)])
    save_file(tensors, path, metadata={"keys": names})
    index = pd.read_parquet(path.with_name(INDEX))
    index["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    index.to_parquet(path.with_name(INDEX))
    write_sums(path.parent)
    return folder


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_loss_that_is_no_number_names_step_clips_and_the_last_state(world, tmp_path, kind):
    bad = poisoned(world, tmp_path / "world", where=4)
    machine = {"save_every": 1}
    with pytest.raises(NonFiniteLoss) as raised:
        train(kind, bad, tmp_path / "out", machine, {})
    message = str(raised.value)
    step = len(toy.steps_in(tmp_path / "out")) + 1
    assert f"step {step}: the loss is nan (clip-4);" in message  # and no other of the step's three
    left = f"step-{step - 1:06d}" if step > 1 else "none: it would start at step 1"
    assert left in message


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_on_two_ranks_both_stop_at_one_ranks_nan_and_name_it(world, tmp_path, kind):
    bad = poisoned(world, tmp_path / "world", where=4)
    folder = tmp_path / "out"
    assert Ranks(folder, 2, train, kind, bad, folder, {"processes": 2}, {}).wait() == [1, 1]
    for rank in (0, 1):
        said = (folder / f"said-{rank}").read_text()
        assert re.search(r"NonFiniteLoss: step \d: the loss is nan \(rank [01]: clip-4\);", said)


SHARDED = "ZeRO 2 in fp32"


def lines(path: Path) -> None:
    path.mkdir()
    (path / "weights").write_text("1 2 3")


def test_the_last_k_states_are_kept_and_a_damaged_one_is_named(tmp_path, caplog):
    for step in (2, 4, 6, 8):
        write_state(tmp_path, step, "recipe", 3, WHOLE, lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-00000{n}" for n in (4, 6, 8)]
    (tmp_path / "step-000008" / "weights").write_text("1 2 4")
    (tmp_path / "step-000006" / "record.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert newest_state(tmp_path, "recipe", WHOLE) == (tmp_path / "step-000004", 4)
    assert "step-000008: passed over, damaged: weights" in caplog.text
    assert "step-000006: passed over, its record.json cannot be read" in caplog.text
    assert newest_state(tmp_path, "another", WHOLE) is None
    assert "step-000004: passed over, it belongs to another recipe" in caplog.text


def test_a_damaged_state_stays_when_one_of_an_earlier_step_is_saved(tmp_path):
    for step in (20, 80):
        write_state(tmp_path, step, "recipe", 2, WHOLE, lines)
    (tmp_path / "step-000080" / "weights").write_text("1 2 4")
    write_state(tmp_path, 40, "recipe", 2, WHOLE, lines)
    write_state(tmp_path, 60, "recipe", 2, WHOLE, lines)
    kept = [f"step-0000{step}" for step in (40, 60, 80)]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
    assert newest_state(tmp_path, "recipe", WHOLE) == (tmp_path / "step-000060", 60)


def rewritten(state: Path, **values: object) -> None:
    record = json.loads((state / "record.json").read_text())
    (state / "record.json").write_text(json.dumps(record | values))


def test_a_state_of_other_ranks_is_taken_over_where_rank_0_holds_it_whole_else_refused(tmp_path):
    for layout in (WHOLE, SHARDED):
        folder = tmp_path / layout
        state = write_state(folder, 2, "recipe", 2, layout, whole_folder)
        rewritten(state, ranks=8)
    assert newest_state(tmp_path / WHOLE, "recipe", WHOLE) == (tmp_path / WHOLE / "step-000002", 2)
    with pytest.raises(StateDoesNotFit) as refused:
        newest_state(tmp_path / SHARDED, "recipe", SHARDED)
    assert "step-000002 is divided among 8 processes (ZeRO 2 in fp32) and 1 train now" in str(
        refused.value
    )
    with pytest.raises(StateDoesNotFit, match=r"is ZeRO 2 in fp32 and this training's would be w"):
        newest_state(tmp_path / SHARDED, "recipe", WHOLE)
    assert (tmp_path / SHARDED / "step-000002" / "weights").exists()


def whole_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "weights").write_text("1 2 3")


def test_a_value_taken_back_goes_on_from_the_state_it_had(world, tmp_path):
    """Another learning rate for a while, in the same folder; then as if it had never been."""
    kept = {"save_every": 2}
    train("grpo", world, tmp_path / "alone", kept, {"steps": 6})
    folder = tmp_path / "changed"
    ranks = Ranks(folder, 1, train, "grpo", world, folder, kept, {"steps": 6})
    while ranks.alive and not list(toy.state_in(folder).glob("step-*")):
        time.sleep(0.001)
    ranks.kill()
    state = toy.state_in(folder)
    kept_file = next(state.glob("step-*")) / "kept"  # a state made again would not have it
    kept_file.touch()
    train("grpo", world, folder, kept, {"steps": 3, "lr": 1e-4})
    assert kept_file.exists()
    train("grpo", world, folder, kept, {"steps": 6})
    assert kept_file.exists()
    weights = [f / "checkpoint" / "model.safetensors" for f in (tmp_path / "alone", folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_store_out_of_reach_gets_every_point_after_a_kill_and_none_twice(
    world, empty_store, tmp_path
):
    folder = tmp_path / "out"
    (folder / "mlflow.db").mkdir(parents=True)  # nothing can be opened, nor created, by this name
    params = {"steps": 12}
    ranks = Ranks(folder, 1, stage, "grpo", world, folder, {}, params)
    while ranks.alive and len(toy.steps_in(folder)) < 5:  # it trains all the same
        time.sleep(0.001)
    ranks.kill()
    assert len(toy.steps_in(folder)) >= 5
    (folder / "mlflow.db").rmdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    assert Ranks(folder, 1, stage, "grpo", world, folder, {}, params).wait() == [0]
    runs, points = kills.mlflow_points(folder)
    assert runs == ["FINISHED"]
    assert [step for key, step, _ in points if key == "train/loss"] == list(range(1, 13))


LOOKED_AT = {"grpo": {"steps": 6, "held_out": 2}, "sft": {"epochs": 2, "held_out": 2}}


@pytest.fixture(scope="module", params=["grpo", "sft"])
def alone(world, tmp_path_factory, request):
    """A kind of training, and the folder of one that was left alone."""
    folder = tmp_path_factory.mktemp(request.param)
    train(request.param, world, folder, {"save_every": 2}, LOOKED_AT[request.param])
    return request.param, folder


@pytest.mark.parametrize("busy", ["evaluate", "save"])
def test_sigterm_during_an_evaluation_or_a_save_stops_after_that_step(
    world, tmp_path, monkeypatch, alone, busy
):
    """Sent from within, so that it always comes at that moment."""
    kind, undisturbed = alone
    owner = {"evaluate": HeldOutSet, "save": Engine}[busy]
    real = getattr(owner, busy)

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *arguments)

    params, folder = LOOKED_AT[kind], tmp_path / "stopped"
    monkeypatch.setattr(owner, busy, interrupted)
    with pytest.raises(Stopped) as stopped:
        train(kind, world, folder, {"save_every": 2}, params)
    assert stopped.value.code == 143
    monkeypatch.undo()
    steps = {"evaluate": [2], "save": [2, 3]}[busy]  # a save is too late for its own step
    states = sorted(p.name for p in toy.state_in(folder).glob("step-*"))
    assert states == [f"step-{step:06d}" for step in steps]
    train(kind, world, folder, {"save_every": 2}, params)
    assert kills.curves(folder) == kills.curves(undisturbed)
    weights = [f / "checkpoint" / "model.safetensors" for f in (undisturbed, folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_grad_norm_and_lr_are_in_the_curves_and_the_seconds_by_part_beside_the_state(
    world, tmp_path
):
    train("sft", world, tmp_path / "sft", {}, {"epochs": 2, "held_out": 2})
    rows, times = kills.curves(tmp_path / "sft"), kills.times(tmp_path / "sft")
    for row, seconds in zip(rows, times, strict=True):
        assert row["step"] == seconds["step"]
        assert seconds["time/step"] > 0
        assert ("time/held_out" in seconds) == ("held_out/war" in row) == (row["step"] % 2 == 0)
    train("grpo", world, tmp_path, {}, {"steps": 2})
    timers = ("prefill", "sample", "reference", "policy", "backward", "update")
    for row, seconds in zip(kills.curves(tmp_path), kills.times(tmp_path), strict=True):
        assert not any(key.startswith("time/") for key in row)
        assert row["optim/grad_norm"] >= 0
        assert row["optim/lr"] > 0
        assert 0 <= row["rollout/logprob_gap"] < 1e-5
        parts = [seconds[f"time/{part}"] for part in timers]
        assert min(parts) > 0
        assert sum(parts) < seconds["time/step"]
        tokens = row["rollout/completion_length"] * 3 * 4
        rate = tokens / seconds["time/sample"]
        assert seconds["time/tokens_per_second"] == pytest.approx(rate, rel=1e-3)
