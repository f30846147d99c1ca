import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from small_corpora import SIZES, build_synthetic, read_bytes

from r1omni.config import SyntheticParams
from r1omni.corpora.synthetic.attributes import ATTRIBUTES, UNSEEN
from r1omni.corpora.synthetic.synthesize import run_synthesize


def synthesize_alone(out: Path, truth: Path, corpus: str, synthetic: SyntheticParams) -> None:
    """In this process: others take seconds to start."""
    run_synthesize(out, truth, corpus=corpus, synthetic=synthetic, workers=1)


def test_the_bytes_do_not_depend_on_workers_nor_on_what_was_there(rendered, tmp_path):
    first, first_truth = rendered("mafw")
    out, truth = tmp_path / "mafw", tmp_path / "truth.parquet"
    out.mkdir()
    (out / "stale.mp4").write_bytes(b"old")
    run_synthesize(out, truth, corpus="mafw", synthetic=build_synthetic(SIZES), workers=2)
    assert read_bytes(out) == read_bytes(first)
    assert truth.read_bytes() == first_truth.read_bytes()
    assert truth.with_suffix(".png").read_bytes() == first_truth.with_suffix(".png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mafw", "truth.parquet", "truth.png"]


def test_a_rendered_corpus_says_that_it_is_rendered(rendered):
    for corpus in ("generic", "reasoning", "dfew", "mafw", "ravdess"):
        root, _ = rendered(corpus)
        mark = json.loads((root / "SYNTHETIC.json").read_text())
        assert (mark["data"], mark["corpus"], mark["shortcut"]) == ("synthetic", corpus, 0.0)
        assert (mark["seed"], mark["render"]["frame_size"]) == (1, 48)


def test_another_seed_gives_other_clips(rendered, tmp_path):
    first, _ = rendered("ravdess")
    other = build_synthetic({"ravdess": 20}, seed=2)
    synthesize_alone(tmp_path / "r", tmp_path / "t.parquet", "ravdess", other)
    mine, yours = read_bytes(tmp_path / "r"), read_bytes(first)
    assert set(mine) == set(yours)
    assert all(mine[name] != yours[name] for name in mine)  # the mark, too: it names the seed


def test_sound_and_picture_are_equally_long_and_decode(rendered):
    root, _ = rendered("dfew")
    for path in sorted((root / "Clip/original").iterdir())[:8]:
        with av.open(str(path)) as container:
            assert container.streams.audio[0].rate == 16000
            assert container.streams.audio[0].channels == 1
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        with av.open(str(path)) as container:
            sound = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
        assert frames[0].shape == (48, 48, 3)
        assert 5 <= len(frames) <= 7
        assert sound.shape[1] / 16000 == pytest.approx(len(frames) / 8, abs=0.15)
        assert sound.std() > 0.01


def test_the_truth_has_a_row_per_usable_clip(rendered):
    table = pd.read_parquet(rendered("mafw")[1])
    assert list(table.columns) == ["clip_id", "emotion", "label", "scene", "speaker", *ATTRIBUTES]
    assert len(table) == 59  # without the compound clip
    assert table[list(ATTRIBUTES)].isin([-1, 0, 1]).all(axis=None)
    assert (table.scene >= 0).all()
    assert (pd.read_parquet(rendered("ravdess")[1]).scene == UNSEEN).all()  # the studio's is blank


def test_the_contact_sheet_has_a_row_per_emotion(rendered):
    with Image.open(rendered("dfew")[1].with_suffix(".png")) as sheet:
        assert sheet.size == (128 + 2 * 96, 7 * 96)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small_corpora import build_synthetic
from r1omni.corpora.synthetic.synthesize import run_synthesize
if __name__ == "__main__":
    home = Path(sys.argv[2])
    synthetic = build_synthetic({"dfew": 48})
    run_synthesize(home / "dfew", home / "truth.parquet", corpus="dfew", synthetic=synthetic)
"""


def test_a_killed_run_goes_on_where_it_was_and_leaves_nothing(tmp_path):
    script, home = tmp_path / "script.py", tmp_path / "home"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(home)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(done := sorted(home.glob(".dfew.partial/*/root/Clip/original/*.mp4"))) < 10:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
    assert not (home / "dfew").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in done}

    synthetic = build_synthetic({"dfew": 48})
    synthesize_alone(home / "dfew", home / "truth.parquet", "dfew", synthetic)
    again = {name: (home / "dfew/Clip/original" / name).stat().st_mtime_ns for name in kept}
    assert again == kept
    assert sorted(p.name for p in home.iterdir()) == ["dfew", "truth.parquet", "truth.png"]
    fresh = tmp_path / "fresh"
    synthesize_alone(fresh / "dfew", fresh / "t.parquet", "dfew", synthetic)
    assert read_bytes(fresh / "dfew") == read_bytes(home / "dfew")
