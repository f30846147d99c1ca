"""The generic corpus that the tiny towers learn from."""

import json
from pathlib import Path

import pytest

from r1omni.base_model.towers import read_generic
from r1omni.corpora.synthetic.attributes import ATTRIBUTES, UNSEEN


def entry(video="generic/000001.mp4", style="wild"):
    levels = {name: (-1, 0, 1)[i % 3] for i, name in enumerate(ATTRIBUTES)}
    return {
        "video": video,
        "conversations": [
            {"from": "human", "value": "<video>\n<audio>\nDescribe."},
            {"from": "gpt", "value": "Raised brows."},
        ],
        "attributes": {**levels, "scene": 3, "speaker": 7},
        "style": style,
        "emotion": "calm",
    }


def write(folder, *entries):
    (folder / "annotations.json").write_text(json.dumps(entries))


def test_levels_become_classes_and_a_studio_clip_shows_no_scene(tmp_path):
    write(tmp_path, entry(), entry("generic/000002.mp4", "studio"))
    wild, studio = read_generic(tmp_path)
    assert (wild.clip_id, wild.caption, wild.emotion) == (
        "generic/000001",
        "Raised brows.",
        "calm",
    )
    assert [wild.targets[name] for name in list(ATTRIBUTES)[:4]] == [0, 1, 2, 0]
    assert (wild.targets["scene"], wild.targets["speaker"]) == (3, 7)
    assert studio.targets["scene"] == UNSEEN


def test_a_relative_root_is_read(tmp_path, monkeypatch):
    write(tmp_path, entry())
    monkeypatch.chdir(tmp_path.parent)
    assert read_generic(Path(tmp_path.name))[0].path == "generic/000001.mp4"


def test_an_entry_without_attributes_is_named(tmp_path):
    broken = entry()
    del broken["attributes"]
    write(tmp_path, entry(), broken)
    with pytest.raises(ValueError, match=r"annotations\.json:\[1\]: lacks 'attributes'"):
        read_generic(tmp_path)


def test_a_path_that_leaves_the_root_is_refused(tmp_path):
    write(tmp_path, entry("../elsewhere.mp4"))
    with pytest.raises(ValueError, match="elsewhere"):
        read_generic(tmp_path)


def test_a_folder_that_is_neither_is_said(tmp_path):
    with pytest.raises(ValueError, match="neither a checkpoint"):
        read_generic(tmp_path)
