"""Curves and states that survive a kill."""

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path

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
    open_state(folder, "one")
    (folder / "step-000002").mkdir()
    (folder / "curves.jsonl").write_text("half done")
    return folder


def test_the_same_recipe_goes_on(state):
    open_state(state, "one")
    assert (state / "curves.jsonl").read_text() == "half done"


def test_a_changed_recipe_starts_afresh_and_a_value_taken_back_goes_on(state, caplog):
    with caplog.at_level(logging.INFO):
        open_state(state, "two")
    assert f"not resuming; its unfinished state is kept as {state}.aside" in caplog.text
    assert sorted(p.name for p in state.iterdir()) == ["recipe"]
    open_state(state, "one")
    assert (state / "curves.jsonl").read_text() == "half done"
    assert not state.with_name("state.aside").exists()  # the second had saved nothing


def test_one_state_is_kept_aside_the_last_that_had_been_saved(state):
    open_state(state, "two")
    open_state(state, "three")  # the second has nothing that would be missed
    (state / "step-000004").mkdir()
    open_state(state, "one")  # they change places
    assert step_in(state) == "step-000002"
    open_state(state, "four")
    assert step_in(state) is None
    open_state(state, "three")  # lost: the first one was put aside after it
    assert step_in(state) is None
    open_state(state, "one")
    assert step_in(state) == "step-000002"


def step_in(state):
    return next((path.name for path in state.glob("step-*")), None)


class Killed(Exception):
    """In place of SIGKILL."""


@pytest.mark.parametrize("asked", ["one", "two", "three"])
@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_any_moment_of_an_exchange_loses_neither_state(state, monkeypatch, moment, asked):
    """Both recipes have saved; the first is asked for, and dies; then one of them, or another."""
    open_state(state, "two")
    (state / "step-000004").mkdir()
    left = [moment]

    def dying(real):
        def act(*arguments, **more):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return real(*arguments, **more)

        return act

    with monkeypatch.context() as patched:
        of_paths = [(Path, name) for name in ("rename", "unlink", "mkdir", "write_text")]
        for owner, name in (*of_paths, (shutil, "rmtree")):
            patched.setattr(owner, name, dying(getattr(owner, name)))
        with suppress(Killed):
            open_state(state, "one")
    open_state(state, asked)
    steps = {"one": "step-000002", "two": "step-000004"}
    assert step_in(state) == steps.get(asked)
    if asked in steps:  # a third recipe's beginning costs what was aside, if both had saved
        other = {"one": "two", "two": "one"}[asked]
        open_state(state, other)
        assert step_in(state) == steps[other]


def test_half_a_state_is_not_put_in_place_of_a_whole_one(state):
    open_state(state, "two")
    (state / "step-000004").mkdir()
    (state / "recipe").unlink()  # by a kill while it was removed
    open_state(state, "three")
    open_state(state, "one")
    assert step_in(state) == "step-000002"


def test_the_fingerprint_follows_params_and_files(tmp_path, params):
    file = tmp_path / "manifest"
    file.write_text("a")
    first = fingerprint([params.grpo], [file])
    assert fingerprint([params.grpo], [file]) == first
    assert fingerprint([params.grpo.model_copy(update={"lr": 1.0})], [file]) != first
    file.write_text("b")
    assert fingerprint([params.grpo], [file]) != first
