"""Overrides that turn params.yaml into a profile, applied by DVC's own code."""

from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from r1omni.experiments.profile import profile_overrides
from r1omni.experiments.studies import find_study

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("params.yaml", "params/tiny_qwen.yaml"),
        ("engine: {adapter: null}", "engine: {adapter: {rank: 16, targets: [attention, mlp]}}"),
    ],
)
def test_overrides_make_params_the_profile(tmp_path, before, after):
    params, wanted = tmp_path / "params.yaml", tmp_path / "wanted.yaml"
    for path, given in ((params, before), (wanted, after)):
        path.write_text((ROOT / given).read_text("utf-8") if given.endswith("yaml") else given)
    apply_overrides(params, list(profile_overrides(params, wanted)))
    assert yaml.safe_load(params.read_text()) == yaml.safe_load(wanted.read_text())


def test_overrides_name_what_is_new_other_and_gone(tmp_path):
    (tmp_path / "a").write_text("x: {same: 1, other: [a], gone: 2}\ngone: {y: 1}\n")
    (tmp_path / "b").write_text("x: {same: 1, other: [b, c], new: {deep: null}}\n")
    assert profile_overrides(tmp_path / "a", tmp_path / "b") == (
        "~gone", "~x.gone", 'x.other=["b", "c"]', "++x.new.deep=null"
    )  # fmt: skip


def test_the_default_itself_needs_no_override_and_a_missing_profile_is_named(tmp_path):
    assert profile_overrides(ROOT / "params.yaml", ROOT / "params.yaml") == ()
    with pytest.raises(ValueError, match=r"none\.yaml: no such profile"):
        profile_overrides(ROOT / "params.yaml", tmp_path / "none.yaml")


def test_a_study_of_backbones_names_the_profile_and_makes_no_audit():
    rows = {trial.key: trial for trial in find_study("backbones").trials([3])}
    row = rows["qwen-0.9/3"]
    assert (row.profile, row.targets) == ("params/tiny_qwen.yaml", ("score",))
    assert row.settings[-3:] == ("cold_start.seed=3", "label_sft.seed=3", "grpo.seed=3")
    assert rows["humanomni-0/3"].profile == ""
