"""The journal: a killed ingestion goes on, what has changed is opened again."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from clip_files import LIMITS, signal_decoding_process

from r1omni.config import IngestParams
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.ingestion.ingest import run_ingest
from r1omni.corpora.ingestion.journal import Journal
from r1omni.corpora.ingestion.probing import Finding, Unreadable, probe_clips
from r1omni.corpora.known import find_corpus

PARAMS = IngestParams(
    max_pixels=4096 * 2304,
    missing_audio="reject",
    max_rationale_words=1000,
)
STATE = Path(".state/ingest/m.sqlite")
N_CLIPS = 60


@pytest.fixture
def dfew(root, clips, annotate, tmp_path, monkeypatch):
    """Sixty train clips of 12 frames and one to test, each a file of its own."""
    monkeypatch.chdir(tmp_path)
    numbers = range(1, N_CLIPS + 1)
    rows = "".join(f"{number},1\n" for number in numbers)
    annotate("label/single_trainset_1.csv", "video_name,label\n" + rows)
    annotate("label/single_testset_1.csv", f"video_name,label\n{N_CLIPS + 1},1\n")
    (root / "clip").mkdir()
    for number in range(1, N_CLIPS + 2):
        (root / f"clip/{number}.mp4").write_bytes(clips["good"].read_bytes())
    return root


def ingest(root: Path) -> dict[str, int]:
    """The number of frames of each clip in the manifest that comes of it."""
    run_ingest(
        root,
        Path("m.parquet"),
        Path("r.parquet"),
        corpus=find_corpus("dfew"),
        fold=1,
        ingest=PARAMS,
        limits=LIMITS,
        workers=1,
    )
    return {clip.clip_id: clip.n_frames for clip in read_manifest(Path("m.parquet"))}


def findings() -> int:
    if not STATE.is_file():
        return 0
    with sqlite3.connect(STATE, timeout=30) as database:
        try:
            return database.execute("SELECT count(*) FROM findings").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def mark_findings() -> None:
    """Change what is kept of each clip: so it can be told from what is found by opening it."""
    with sqlite3.connect(STATE) as database:
        old, new = '"n_frames": 12', '"n_frames": 99'
        database.execute("UPDATE findings SET found = replace(found, ?, ?)", (old, new))


def test_a_killed_ingestion_goes_on_where_it_was(dfew, clips, repo):
    last = dfew / f"clip/{N_CLIPS + 1}.mp4"
    last.unlink()
    os.mkfifo(last)  # holds the ingestion, so that it is killed in the middle
    process = subprocess.Popen(
        [sys.executable, "-m", "r1omni.cli", "ingest", "--corpus", "dfew", "--root", str(dfew),
         "--manifest", "m.parquet", "--rejects", "r.parquet", "--params", repo / "params.yaml"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while findings() == 0 and process.poll() is None:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not Path("m.parquet").exists()
    kept = findings()
    assert 0 < kept <= N_CLIPS
    for worker in workers:  # the one that the fifo holds ends by its own alarm
        with contextlib.suppress(psutil.NoSuchProcess):  # the others end with their parent
            worker.kill()
    mark_findings()
    last.unlink()
    last.write_bytes(clips["good"].read_bytes())
    assert Counter(ingest(dfew).values()) == {99: kept, 12: N_CLIPS + 1 - kept}
    assert findings() == N_CLIPS + 1


def test_what_is_known_is_not_opened_and_what_has_changed_is(dfew, clips):
    assert Counter(ingest(dfew).values()) == {12: N_CLIPS + 1}
    mark_findings()
    changed = dfew / "clip/7.mp4"
    changed.write_bytes(changed.read_bytes())
    (dfew / "clip/8.mp4").write_bytes(b"no longer a clip")
    frames = ingest(dfew)
    assert frames["dfew/7"] == 12 and "dfew/8" not in frames
    assert Counter(frames.values()) == {99: N_CLIPS - 1, 12: 1}


def test_a_damaged_journal_is_begun_afresh(dfew, caplog):
    STATE.parent.mkdir(parents=True)
    STATE.write_bytes(b"SQLite format 3\0" + b"no journal" * 100)
    assert len(ingest(dfew)) == N_CLIPS + 1
    assert "m.sqlite: is no journal" in caplog.text
    assert findings() == N_CLIPS + 1


def test_a_finding_is_known_until_the_file_changes(clips, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clips["good"].read_bytes())
    found = Finding(1.5, 8.0, 12, True, "0" * 64)
    journal = Journal(tmp_path / "j.sqlite")
    assert journal.known(path) is None
    journal.remember(path, found)
    journal.close()
    again = Journal(tmp_path / "j.sqlite")
    assert again.known(path) == found
    path.write_bytes(b"other")
    assert again.known(path) is None
    assert again.known(tmp_path / "missing.mp4") is None
    assert (again.earlier_place("c", "list:1"), again.earlier_place("c", "list:2")) == (
        None,
        "list:1",
    )
    again.close()


def test_a_stopped_decoding_process_costs_one_clip(clips, tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    paths = [clips["good"], tmp_path / "fifo.mp4", clips["good"]]

    found = probe_clips(enumerate(paths), workers=1, limits=replace(LIMITS, timeout_seconds=2.0))
    results = dict([next(found)])
    stopper = threading.Timer(0.5, signal_decoding_process, [signal.SIGSTOP])
    stopper.start()
    results.update(found)
    stopper.join()
    assert isinstance(results[0], Finding) and results[0] == results[2]
    assert results[1] == Unreadable("not decoded within 2 s")
