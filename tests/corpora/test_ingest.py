"""Ingestion: decoders that hang or die, silence, the two tables, nothing written to the root."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from clip_files import LIMITS, signal_decoding_process

from r1omni.config import IngestParams
from r1omni.corpora import read_clips
from r1omni.corpora.clip import read_manifest, read_rejects
from r1omni.corpora.ingestion.ingest import run_ingest
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.ingestion.probing import Finding, Unreadable, probe_clips
from r1omni.corpora.known import find_corpus

PARAMS = IngestParams(
    max_pixels=4096 * 2304,
    missing_audio="reject",
    max_rationale_words=1000,
)


@pytest.fixture
def dfew(root, place, annotate):
    """Nine rows: three clips, and one row for each of six reasons."""
    rows = "1,1\n2,2\n3,3\n4,0\n5,9\n6,1\n7,1\n8,1\n"
    annotate("label/single_trainset_1.csv", "video_name,label\n" + rows)
    annotate("label/single_testset_1.csv", "video_name,label\n1,1\n")
    for number in (1, 2, 3):
        place(f"clip/{number}.mp4")
    place("clip/7.mp4", "silent")
    place("clip/8.mp4", "truncated")
    return root


def test_clips_and_rejects_add_up_and_survive_the_disk(dfew, tmp_path, caplog):
    before = {p: p.stat().st_mtime_ns for p in dfew.rglob("*")}
    manifest, rejects = tmp_path / "m" / "dfew.parquet", tmp_path / "r" / "dfew.parquet"
    with caplog.at_level(logging.INFO, logger="r1omni"):
        run_ingest(
            dfew,
            manifest,
            rejects,
            corpus=find_corpus("dfew"),
            fold=1,
            ingest=PARAMS,
            limits=LIMITS,
            workers=2,
        )
    clips, rejected = read_manifest(manifest), read_rejects(rejects)
    assert len(clips) == 3 and len(clips) + len(rejected) == 9
    assert (clips, rejected) == read_clips("dfew", dfew, 1, workers=1)
    assert Counter(r.reason for r in rejected) == dict.fromkeys(
        ["no_single_label", "unknown_label", "missing_file", "no_audio", "unreadable", "duplicate"],
        1,
    )
    assert "9 rows, 3 clips, 6 rejected" in caplog.text
    assert sum("1 rejected as" in message for message in caplog.messages) == 6
    assert {p: p.stat().st_mtime_ns for p in dfew.rglob("*")} == before
    assert sorted(p.name for p in tmp_path.rglob("*.parquet*")) == ["dfew.parquet"] * 2


def test_silence_is_kept_where_it_is_allowed(dfew):
    clips, rejects = read_clips("dfew", dfew, workers=1, missing_audio="silence")
    assert [(c.clip_id, c.has_audio) for c in clips][-1] == ("dfew/7", False)
    assert "no_audio" not in {r.reason for r in rejects}


def test_a_decoder_that_hangs_costs_one_clip(dfew):
    (dfew / "clip/2.mp4").unlink()
    os.mkfifo(dfew / "clip/2.mp4")  # opening it waits for a writer that never comes
    start = time.monotonic()
    clips, rejects = read_clips("dfew", dfew, workers=1, timeout_seconds=3.0)
    assert [c.clip_id for c in clips] == ["dfew/1", "dfew/3"]
    hung = next(r for r in rejects if r.path == "clip/2.mp4")
    assert (hung.reason, hung.detail) == ("unreadable", "not decoded within 3 s")
    assert time.monotonic() - start < 30


def test_a_decoder_that_dies_costs_one_clip(clips, tmp_path):
    """The decoding process is killed while a fifo holds it, as a crash would kill it."""
    os.mkfifo(tmp_path / "fifo.mp4")
    paths = [clips["good"], tmp_path / "fifo.mp4", clips["good"]]

    killer = threading.Timer(1.0, signal_decoding_process, [signal.SIGKILL])
    found = probe_clips(enumerate(paths), workers=1, limits=replace(LIMITS, timeout_seconds=20.0))
    results = dict([next(found)])
    killer.start()
    results.update(found)
    killer.join()
    first, second, third = (results[i] for i in range(3))
    assert isinstance(first, Finding) and first == third
    assert isinstance(second, Unreadable) and "died of it (SIGKILL)" in second.detail


def test_nothing_to_probe_is_no_work():
    assert list(probe_clips([], workers=2, limits=replace(LIMITS, timeout_seconds=1.0))) == []


@pytest.mark.parametrize(
    ("corpus", "fold", "message"),
    [
        ("dfwe", 1, r"unknown corpus .dfwe.; known: conversations, dfew, .*ravdess, table"),
        ("dfew", 6, "there is no fold 6 of dfew: 1 to 5"),
    ],
)
def test_a_wrong_corpus_or_fold_is_named(root, corpus, fold, message):
    with pytest.raises(CorpusError, match=message):
        read_clips(corpus, root, fold)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere: no such folder; expected the root of dfew"):
        read_clips("dfew", tmp_path / "nowhere")


def test_a_table_that_is_none_is_named(tmp_path):
    path = tmp_path / "m.parquet"
    with pytest.raises(ValueError, match=r"m.parquet: no such file; expected a manifest"):
        read_manifest(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"m.parquet: not a parquet file; expected a manifest"):
        read_manifest(path)


def test_a_script_without_a_main_guard_can_read_clips(dfew, tmp_path):
    """Workers are processes of their own: they never run the caller's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom r1omni.corpora import read_clips\n"
        f"clips, rejects = read_clips('dfew', Path({str(dfew)!r}), workers=1)\n"
        "assert len(clips) == 3 and len(rejects) == 6\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path, timeout=300)
