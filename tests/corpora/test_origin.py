"""Rendered or real: from the mark in a corpus's root to the note in its manifest."""

import json
import os

import pytest
from clip_files import LIMITS

from r1omni.corpora import read_clips
from r1omni.corpora.clip import Clip, read_manifest, write_manifest
from r1omni.corpora.ingestion.ingest import run_ingest
from r1omni.corpora.known import find_corpus
from r1omni.corpora.origin import MARK, origin_of_root, read_origin, read_origins, write_mark
from r1omni.lineage import UNKNOWN, Origin, joint_kind, origin_record

RENDERED = Origin("synthetic", shortcut=0.5, seed=1)


def ingest(root, folder, params) -> Origin:
    manifest = folder / "manifest.parquet"
    run_ingest(
        root,
        manifest,
        folder / "r.parquet",
        corpus=find_corpus("ravdess"),
        fold=1,
        ingest=params,
        limits=LIMITS,
        workers=1,
    )
    assert len(read_manifest(manifest)) == 1
    return read_origin(manifest)


def clip(corpus: str, split: str = "train") -> Clip:
    return Clip(
        f"{corpus}/1", corpus, "1.mp4", "sad", split, None, None, None, 1.0, 8.0, 8, True, "0"
    )


def test_a_manifest_says_whether_its_clips_are_rendered(root, place, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place("Actor_01/01-01-03-01-01-01-01.mp4")
    assert ingest(root, tmp_path, params.ingest) == Origin("real")
    write_mark(root, {"shortcut": 0.5, "seed": 1, "clips": 20})
    assert ingest(root, tmp_path, params.ingest) == RENDERED
    write_manifest(read_manifest(tmp_path / "manifest.parquet"), tmp_path / "without.parquet")
    assert read_origin(tmp_path / "without.parquet") == UNKNOWN


def test_the_mark_is_no_annotation_file(root, place, annotate):
    place("a.mp4")
    turn = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "happy"}]
    annotate("mine.json", json.dumps([{"video": "a.mp4", "conversations": turn}]))
    write_mark(root, {"seed": 1})
    clips, rejects = read_clips("conversations", root, workers=1)
    assert [c.clip_id for c in clips] == ["conversations/a"] and rejects == []


@pytest.mark.parametrize("text", ["", "[]", '{"data": "cartoon"}'])
def test_a_mark_that_is_none_is_named(tmp_path, text):
    (tmp_path / MARK).write_text(text)
    with pytest.raises(ValueError, match=r"SYNTHETIC\.json: expected the mark of a rendered"):
        origin_of_root(tmp_path)


@pytest.mark.timeout(30)
def test_a_mark_that_is_a_fifo_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / MARK)
    with pytest.raises(ValueError, match=r"SYNTHETIC\.json: .*: is no regular file"):
        origin_of_root(tmp_path)


def test_several_manifests_of_one_corpus_are_told_together(tmp_path):
    for name, clips, origin in (
        ("a", [clip("dfew")], RENDERED),
        ("b", [clip("emer")], RENDERED),
        ("c", [clip("emer")], Origin("real")),
        ("d", [clip("mafw", "test")], RENDERED),
    ):
        write_manifest(clips, tmp_path / f"{name}.parquet", note=origin_record(origin))
    manifests = [tmp_path / f"{name}.parquet" for name in "abcd"]
    assert read_origins(manifests, "train") == {"dfew": RENDERED, "emer": Origin("mixed")}
    assert read_origins(manifests, "test") == {"mafw": RENDERED}


@pytest.mark.parametrize(
    ("kinds", "together"),
    [
        (["synthetic", "synthetic"], "synthetic"),
        (["synthetic", "real"], "mixed"),
        (["real", "unknown"], "real"),
        (["synthetic", "unknown"], "unknown"),
        ([], "unknown"),
    ],
)
def test_rendered_faces_only_is_said_where_all_are_known_to_be_rendered(kinds, together):
    assert joint_kind(kinds) == together
