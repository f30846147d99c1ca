"""A value that changes time and memory alone: a killed training goes on, with the same numbers."""

import json
import shutil
from pathlib import Path

import kills
import pytest
import toy
from forked import Ranks, train

from r1omni import own_code
from r1omni.config import MachineParams
from r1omni.machine.states import StateDoesNotFit
from r1omni.own_code import CodeChanged

PARAMS = {"steps": 4, "held_out": 2}
OTHER = {
    "device": "auto",
    "micro_batch_size": 1,
    "gradient_checkpointing": True,
    "prefix": "recompute",
    "threads": 3,
    "save_every": 3,
    "keep_last": 1,
    "restarts": 5,
    "collective_timeout_seconds": 30.0,
}
# What cannot change a single bit on this machine; the others change the order of sums.
EXACT = (
    *("device", "threads", "save_every", "keep_last", "restarts"),
    "collective_timeout_seconds",
)
ROUNDING = ("micro_batch_size", "gradient_checkpointing", "prefix")
NOT_TRAINING = {  # what features, decoding and answers take
    *("features_batch_size", "predict_batch_size", "workers", "min_free_gb"),
    *("clip_timeout_seconds", "clip_memory_mb"),
    *("engine", "ray_address", "rank_patience_seconds"),
}


class Killed(Exception):
    """In place of SIGKILL, in the third step, after a state in the second."""


def kill(step: int, _metrics: object) -> None:
    if step == 3:
        raise Killed


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """The training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    train("grpo", world, folder, {}, PARAMS)
    return folder


@pytest.fixture(scope="module")
def interrupted(world, tmp_path_factory):
    """The same, killed in step 3."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Killed):
        train("grpo", world, folder, {}, PARAMS, kill)
    return folder


@pytest.fixture
def left(interrupted, tmp_path):
    """A copy of what the killed training left; a state made again would not have the mark."""
    shutil.copytree(interrupted, tmp_path / "left")
    (toy.state_in(tmp_path / "left") / "step-000002" / "mark").touch()
    return tmp_path / "left"


def went_on(folder: Path, alone: Path, *, exact: bool) -> None:
    """Hold that the training went on after step 2 and gave what the undisturbed one gave."""
    (state,) = toy.paths_in(folder).state.glob("*/")
    assert (state / "step-000002" / "mark").exists()
    own, expected = kills.curves(folder), kills.curves(alone)
    assert [row["step"] for row in own] == [1, 2, 3, 4]
    for row, other in zip(own, expected, strict=True):
        assert row == (other if exact else pytest.approx(other, rel=1e-5, abs=1e-6))
    if exact:
        weights = Path("checkpoint") / "model.safetensors"
        assert (folder / weights).read_bytes() == (alone / weights).read_bytes()


@pytest.mark.parametrize("key", [*EXACT, *ROUNDING])
def test_a_killed_training_goes_on_with_another_machine(world, alone, left, key):
    train("grpo", world, left, {key: OTHER[key]}, PARAMS)
    went_on(left, alone, exact=key in EXACT)


def test_every_key_of_the_machine_is_tried():
    below = {"processes", "zero_stage", "offload_optimizer"}
    tried = {*EXACT, *ROUNDING, *below}
    assert tried | NOT_TRAINING == set(MachineParams.model_fields)


def test_a_killed_training_goes_on_with_looks_at_other_steps(world, alone, left):
    train("grpo", world, left, {}, PARAMS | {"every": 3})
    weights = Path("checkpoint") / "model.safetensors"
    assert (left / weights).read_bytes() == (alone / weights).read_bytes()
    seen = [row["step"] for row in kills.curves(left) if "held_out/war" in row]
    assert seen == [2, 3, 4]  # step 2 was looked at before


def test_two_processes_go_on_from_the_state_of_one(world, alone, left):
    machine = {"processes": 2}
    codes = Ranks(left, 2, train, "grpo", world, left, machine, PARAMS).wait()
    assert codes == [0, 0], (left / "said-1").read_text()[-3000:]
    went_on(left, alone, exact=False)


def killed_in_two(*arguments: object) -> None:
    """The stage, whose ranks both end in step 3."""
    train(*arguments, kill)  # type: ignore[arg-type]


def test_one_process_goes_on_from_the_state_of_two(world, alone, tmp_path):
    machine = {"processes": 2}
    Ranks(tmp_path, 2, killed_in_two, "grpo", world, tmp_path, machine, PARAMS).wait()
    state = toy.state_in(tmp_path) / "step-000002"
    assert json.loads((state / "record.json").read_text())["ranks"] == 2
    (state / "mark").touch()
    train("grpo", world, tmp_path, {}, PARAMS)
    went_on(tmp_path, alone, exact=False)


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_state_of_another_zero_stage_is_refused_and_nothing_is_touched(world, left):
    before = everything(left)
    with pytest.raises(StateDoesNotFit) as refused:
        train("grpo", world, left, {"zero_stage": 1}, PARAMS)
    message = str(refused.value)
    assert "step-000002 is whole and this training's would be ZeRO 1 in fp32" in message
    assert "put machine.processes and zero_stage back" in message
    assert everything(left) == before


def test_the_optimisers_state_may_move_to_host_memory_in_the_middle(world, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train("grpo", world, whole, {"zero_stage": 1}, PARAMS)
    with pytest.raises(Killed):
        train("grpo", world, stopped, {"zero_stage": 1}, PARAMS, kill)
    (toy.state_in(stopped) / "step-000002" / "mark").touch()
    train("grpo", world, stopped, {"zero_stage": 1, "offload_optimizer": "cpu"}, PARAMS)
    # the last bit of a product may depend on where in memory a tensor lies (MKL on an EPYC)
    went_on(stopped, whole, exact=False)


def test_an_undivided_optimiser_does_not_move():
    values = toy.machine_params().model_dump() | {"zero_stage": 0, "offload_optimizer": "cpu"}
    with pytest.raises(ValueError, match=r"offload_optimizer\n.*needs zero_stage 1 or more"):
        MachineParams.model_validate(values)


def test_a_state_that_eight_processes_divided_is_refused_by_one_and_nothing_is_touched(
    world, tmp_path
):
    with pytest.raises(Killed):
        train("grpo", world, tmp_path, {"zero_stage": 1}, PARAMS, kill)
    record = toy.state_in(tmp_path) / "step-000002" / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"ranks": 8}))
    before = everything(tmp_path)
    with pytest.raises(StateDoesNotFit, match=r"divided among 8 processes .* and 1 train now"):
        train("grpo", world, tmp_path, {"zero_stage": 1}, PARAMS)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_two_trainings_leave_the_same_bytes(world, alone, tmp_path, kind):
    params = PARAMS if kind == "grpo" else {"epochs": 1, "held_out": 2}
    first = alone
    if kind == "sft":
        first = tmp_path / "first"
        train(kind, world, first, {}, params)
    train(kind, world, tmp_path / "second", {}, params)
    for out in ("checkpoint", "training"):
        assert everything(first / out) == everything(tmp_path / "second" / out)
        assert everything(first / out)


def test_code_that_was_edited_meanwhile_is_named_and_the_state_is_kept(
    world, alone, tmp_path, monkeypatch
):
    before = {**own_code.code_at_start(), "rewards.py": "as it was"}
    with monkeypatch.context() as patched:
        patched.setattr(own_code, "code_at_start", lambda: before)
        with pytest.raises(
            CodeChanged, match=r"r1omni/rewards\.py changed while training ran"
        ) as e:
            train("grpo", world, tmp_path, {}, PARAMS)
    assert "Put the code back and run again to finish from its last state" in str(e.value)
    assert not (tmp_path / "checkpoint").exists()
    assert not (tmp_path / "training").exists()
    assert (toy.state_in(tmp_path) / "step-000002").exists()


def test_a_checkpoint_says_by_which_code_it_was_trained(alone):
    provenance = json.loads((alone / "checkpoint" / "provenance.json").read_text())
    assert provenance["code"] == own_code.code_hash()[:12]
    assert "prefix" not in provenance["params"]
