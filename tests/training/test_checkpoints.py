"""Checkpoints: one fold per run, and what is recorded."""

import json

import pytest

from r1omni.corpora.clip import Clip
from r1omni.training.checkpoints import one_fold


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
