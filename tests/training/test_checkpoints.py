"""Checkpoints: one fold per run, and what is recorded."""

import json

import pytest

from r1omni.corpora.clip import Clip
from r1omni.lineage import UNKNOWN, Lineage, Origin, read_lineage
from r1omni.machine.state_folders import TrainingPaths
from r1omni.own_code import code_hash
from r1omni.training.checkpoints import one_fold, save_checkpoint

RENDERED = Origin("synthetic", shortcut=0.5, seed=1)


def clip(fold):
    return Clip("c", "dfew", "c.mp4", "sad", "train", fold, None, None, 1.0, 8.0, 8, True, "0")


def test_one_fold_is_found_and_none_where_there_is_none():
    assert one_fold([clip(1), clip(None), clip(1)], None) == 1
    assert one_fold([clip(None)], None) is None


def test_mixed_folds_are_refused():
    with pytest.raises(ValueError, match=r"folds \[1, 2\] are mixed"):
        one_fold([clip(1), clip(2)], None)


def test_a_parent_of_another_fold_is_refused(tmp_path):
    (tmp_path / "provenance.json").write_text(json.dumps({"fold": 3}))
    with pytest.raises(ValueError, match=r"folds \[1, 3\] are mixed"):
        one_fold([clip(1)], tmp_path)


def test_a_grandparent_of_another_fold_is_refused(tmp_path):
    ancestors = {"fold": None, "parent": {"fold": 1, "parent": {"fold": 2, "parent": None}}}
    (tmp_path / "provenance.json").write_text(json.dumps(ancestors))
    with pytest.raises(ValueError, match=r"folds \[1, 2\] are mixed"):
        one_fold([clip(1)], tmp_path)


def save(tiny, folder, params, data, parent=None, **grpo) -> Lineage:
    """The lineage of the tiny model, saved as if GRPO had trained it on `data`."""
    paths = TrainingPaths(folder, folder.with_name("training"), folder.with_name("state"))
    paths.state.mkdir(exist_ok=True)
    save_checkpoint(
        tiny,
        paths,
        stage_params=params.grpo.model_copy(update=grpo),
        mode="direct",
        parent=parent,
        clips=[],
        data=data,
        further=[params.held_out],
    )
    return read_lineage(folder)


def test_a_checkpoint_records_data_size_seed_code_and_params_of_all_its_ancestors(
    tiny, params, tmp_path
):
    base = save(tiny, tmp_path / "base", params, {"generic": RENDERED})
    size = sum(parameter.numel() for parameter in tiny.model.parameters())
    text = tiny.model.model
    own = sum(
        parameter.numel()
        for part in (text.embed_tokens, text.layers, text.norm)
        for parameter in part.parameters()
    )
    assert (base.parameters, base.language_model) == (size, own)
    assert (base.seed, base.code) == (params.grpo.seed, code_hash()[:12])
    assert (base.trained_on, base.data) == ("synthetic", {"generic": RENDERED})
    child = save(tiny, tmp_path / "child", params, {"dfew": Origin("real")}, tmp_path / "base")
    assert child.data == {"dfew": Origin("real"), "generic": RENDERED}
    assert child.trained_on == "mixed"
    assert child.params_hash != base.params_hash  # another parent
    other = save(tiny, tmp_path / "other", params, {"generic": RENDERED}, lr=0.5)
    assert other.params_hash not in (base.params_hash, child.params_hash)
    again = save(tiny, tmp_path / "again", params, {"generic": RENDERED})
    assert again.params_hash == base.params_hash


def test_a_parent_that_records_no_data_leaves_its_childs_unknown(tiny, params, tmp_path):
    save(tiny, tmp_path / "parent", params, {"generic": RENDERED})
    (tmp_path / "parent/provenance.json").unlink()
    child = save(tiny, tmp_path / "child", params, {"dfew": RENDERED}, tmp_path / "parent")
    assert child.data == {"dfew": RENDERED, "parent": UNKNOWN}
    assert child.trained_on == "unknown"


def test_a_record_that_is_none_is_named(tmp_path):
    (tmp_path / "provenance.json").write_text('{"data": {"dfew": "synthetic"}}')
    with pytest.raises(ValueError, match=r"provenance\.json: expected a checkpoint's provenance"):
        read_lineage(tmp_path)
