"""Curves and states that survive a kill."""

import json
import logging
import shutil

import pytest

from r1omni.training.journal import Curves, fingerprint, open_state, read_curves


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "tra')
    assert read_curves(path) == [{"step": 1, "train/loss": 2.0}]


def test_rewinding_drops_later_steps_and_tells_the_log_the_rest(tmp_path):
    told = []
    curves = Curves(tmp_path / "curves.jsonl", lambda step, metrics: told.append((step, metrics)))
    for step in (1, 2, 3):
        curves.log(step, {"x": float(step)})
    told.clear()
    curves.rewind(2)
    assert told == [(1, {"x": 1.0}), (2, {"x": 2.0})]
    curves.log(3, {"x": 30.0})
    lines = (tmp_path / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [1.0, 2.0, 30.0]


@pytest.fixture
def state(tmp_path):
    """The unfinished state of recipe "one": a saved step beside its curves."""
    folder = tmp_path / "state"
    assert open_state(folder, "one") is False
    (folder / "step-000002").mkdir()
    (folder / "curves.jsonl").write_text("half done")
    return folder


def test_the_same_recipe_goes_on(state):
    assert open_state(state, "one") is True
    assert (state / "curves.jsonl").read_text() == "half done"


def test_a_changed_recipe_starts_afresh_and_a_value_taken_back_goes_on(state, caplog):
    with caplog.at_level(logging.INFO):
        assert open_state(state, "two") is False
    assert f"not resuming; its unfinished state is kept as {state}.aside" in caplog.text
    assert sorted(p.name for p in state.iterdir()) == ["recipe"]
    assert open_state(state, "one") is True
    assert (state / "curves.jsonl").read_text() == "half done"
    assert not state.with_name("state.aside").exists()  # the second had saved nothing


def test_one_state_is_kept_aside_the_last_that_had_been_saved(state):
    open_state(state, "two")
    open_state(state, "three")  # the second has nothing that would be missed
    (state / "step-000004").mkdir()
    assert open_state(state, "one") is True  # they change places
    assert (state / "step-000002").is_dir()
    assert open_state(state, "four") is False
    assert open_state(state, "three") is False
    assert open_state(state, "one") is True


def test_a_kill_on_the_way_back_loses_nothing(state):
    open_state(state, "two")
    state.with_name("state.aside").rename(state.with_name(".state.coming"))
    shutil.rmtree(state)
    assert open_state(state, "one") is True
    assert (state / "step-000002").is_dir()


def test_half_a_state_is_not_put_in_place_of_a_whole_one(state):
    open_state(state, "two")
    (state / "recipe").unlink()  # a kill before the note was written
    open_state(state, "three")
    assert open_state(state, "one") is True


def test_the_fingerprint_follows_params_and_files(tmp_path, params):
    file = tmp_path / "manifest"
    file.write_text("a")
    first = fingerprint([params.grpo], [file])
    assert fingerprint([params.grpo], [file]) == first
    assert fingerprint([params.grpo.model_copy(update={"lr": 1.0})], [file]) != first
    file.write_text("b")
    assert fingerprint([params.grpo], [file]) != first
