"""Curves and states that survive a kill."""

import json
import os
import shutil

import pytest

from r1omni.machine import state_folders
from r1omni.machine.curves import Curves, read_curves, write_curves
from r1omni.machine.state_folders import (
    TrainingPaths,
    open_state,
    prune_states,
    remove_finished_states,
)
from r1omni.training.recipe import fingerprint


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "tra')
    assert read_curves(path) == [{"step": 1, "train/loss": 2.0}]


def test_rewinding_tells_the_log_what_stays_and_a_repeated_step_counts_once(tmp_path):
    told = []
    path = tmp_path / "curves.jsonl"
    curves = Curves(path, lambda step, metrics: told.append((step, metrics)))
    for step in (1, 2, 3):
        curves.log(step, {"x": float(step)})
    told.clear()
    curves.rewind(1)
    assert told == [(1, {"x": 1.0})]
    assert [row["x"] for row in read_curves(path)] == [1.0, 2.0, 3.0]  # nothing is lost yet
    curves.log(2, {"x": 20.0})
    assert [row["x"] for row in read_curves(path)] == [1.0, 20.0, 3.0]


def test_a_line_cut_short_does_not_swallow_the_next_one(tmp_path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "x": 1.0}\n{"step": 2, "x"')
    curves = Curves(path, lambda _step, _metrics: None)
    curves.rewind(1)
    curves.log(2, {"x": 2.0})
    assert [row["x"] for row in read_curves(path)] == [1.0, 2.0]


def test_seconds_go_beside_the_curves_and_not_into_them(tmp_path):
    path = tmp_path / "curves.jsonl"
    row = {"step": 1, "train/loss": 0.5, "time/step": 2.0}
    path.write_text(json.dumps(row) + "\n")
    write_curves(path, tmp_path / "out.jsonl", tmp_path / "times.jsonl")
    assert read_curves(tmp_path / "out.jsonl") == [{"step": 1, "train/loss": 0.5}]
    assert read_curves(tmp_path / "times.jsonl") == [{"step": 1, "time/step": 2.0}]


@pytest.fixture
def stage(tmp_path):
    """A stage whose recipe "one" has saved a step and was killed."""
    paths = TrainingPaths(tmp_path / "checkpoint", tmp_path / "grpo", tmp_path / "state")
    saved(open_state(paths, "one"), at=1)
    return paths


def saved(paths, at):
    """Save a state, `at` so many seconds after 1970."""
    step = paths.state / "step-000002"
    step.mkdir()
    os.utime(step, (at, at))
    (paths.state / "curves.jsonl").write_text("half done")


def recipes(stage):
    return {path.name for path in stage.state.iterdir()}


def test_every_recipe_goes_on_in_its_own_folder_and_beginning_another_removes_nothing(stage):
    assert not list(open_state(stage, "two").state.glob("step-*"))
    open_state(stage, "three")
    assert recipes(stage) == {"one", "two", "three"}
    assert (open_state(stage, "one").state / "curves.jsonl").read_text() == "half done"


def test_when_a_recipe_has_saved_a_state_the_last_other_one_stays(stage):
    saved(open_state(stage, "two"), at=2)
    open_state(stage, "three")  # has saved nothing that would be missed
    four = open_state(stage, "four")
    saved(four, at=3)
    prune_states(four.state)
    assert recipes(stage) == {"two", "four"}


def test_a_finished_training_drops_its_own_state_alone(stage):
    done = open_state(stage, "two")
    (done.state / state_folders.FINISHED).touch()
    remove_finished_states(stage)
    assert recipes(stage) == {"one"}
    remove_finished_states(stage)
    assert recipes(stage) == {"one"}


def test_a_state_that_a_kill_left_half_removed_is_no_state(stage, monkeypatch):
    two = open_state(stage, "two")
    (two.state / state_folders.FINISHED).touch()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda folder, **_: None)
        remove_finished_states(stage)
    assert recipes(stage) == {"one", ".two.gone"}
    again = open_state(stage, "two")
    saved(again, at=2)
    prune_states(again.state)
    assert recipes(stage) == {"one", "two"}


def test_the_fingerprint_follows_params_and_files(tmp_path, params):
    file = tmp_path / "manifest"
    file.write_text("a")
    first = fingerprint([params.grpo], [file])
    assert fingerprint([params.grpo], [file]) == first
    assert fingerprint([params.grpo.model_copy(update={"lr": 1.0})], [file]) != first
    assert fingerprint([params.grpo.model_copy(update={"prefix": "recompute"})], [file]) == first
    file.write_text("b")
    assert fingerprint([params.grpo], [file]) != first
