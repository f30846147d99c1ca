"""Curves and states that survive a kill."""

import json

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


def test_a_changed_recipe_starts_afresh(tmp_path):
    state = tmp_path / "state"
    assert open_state(state, "one") is False
    (state / "weights").write_text("half done")
    assert open_state(state, "one") is True
    assert (state / "weights").exists()
    assert open_state(state, "two") is False
    assert not (state / "weights").exists()


def test_the_fingerprint_follows_params_and_files(tmp_path, params):
    file = tmp_path / "manifest"
    file.write_text("a")
    first = fingerprint([params.grpo], [file])
    assert fingerprint([params.grpo], [file]) == first
    assert fingerprint([params.grpo.model_copy(update={"lr": 1.0})], [file]) != first
    file.write_text("b")
    assert fingerprint([params.grpo], [file]) != first
