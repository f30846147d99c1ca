"""Files read in another process: in order, and a reader that dies or hangs costs one file."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_files import LIMITS, write_clip

from r1omni.inference.files import ReadFile, Refusal, read_file
from r1omni.inference.reading import read_files
from r1omni.media import MediaSettings, TowerInputs, UnreadableMedia
from r1omni.media.pool import _Worker

SETTINGS = MediaSettings(2, 16, "pad", 16000, 1600, 400, 160, 10)


def troubled(path: Path, preparation: MediaSettings, max_pixels: int) -> ReadFile:
    """A reader that fails as the file's name says."""
    if path.name == "dies":
        os._exit(1)
    if path.name == "hangs":
        time.sleep(60)
    if path.name == "bad":
        raise UnreadableMedia(f"{path}: is bad")
    number = np.full(1, float(path.name), dtype=np.float32)
    return ReadFile(path, TowerInputs(number, number, True), ())


@pytest.mark.parametrize("trouble", ["dies", "hangs"])
def test_a_reader_that_dies_or_hangs_costs_one_file(trouble):
    names = ["1", "bad", "2", trouble, *map(str, range(3, 30)), "dies", "30"]
    found = list(
        read_files(
            [Path(n) for n in names], SETTINGS, replace(LIMITS, timeout_seconds=5.0), troubled
        )
    )
    reasons = {
        "dies": "the decoding process died of it (exit code 1)",
        "hangs": "not decoded within 5 s",
    }
    expected = {"bad": "is bad", **reasons}
    for name, outcome in zip(names, found, strict=True):
        if name in expected:
            assert outcome == Refusal(name, expected[name])
        else:
            assert isinstance(outcome, ReadFile)
            assert outcome.path == Path(name)
            assert float(outcome.inputs.mel[0]) == float(name)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("dies", "the decoding process died of it (exit code 1)"),
        ("hangs", "not decoded within 0.5 s"),
    ],
)
def test_a_single_file_that_kills_its_reader_or_hangs_is_refused_too(trouble, reason):
    found = list(
        read_files([Path(trouble)], SETTINGS, replace(LIMITS, timeout_seconds=0.5), troubled)
    )
    assert found == [Refusal(trouble, reason)]


def test_what_another_process_reads_is_what_this_one_reads(tmp_path):
    paths = [write_clip(tmp_path / f"{i}.mp4", seed=i) for i in range(2)]
    for path, outcome in zip(paths, read_files(paths, SETTINGS, LIMITS), strict=True):
        here = read_file(path, SETTINGS)
        assert isinstance(outcome, ReadFile)
        assert np.array_equal(outcome.inputs.pixels, here.inputs.pixels)
        assert np.array_equal(outcome.inputs.mel, here.inputs.mel)


def test_a_process_that_two_threads_stop_is_closed_once(monkeypatch):
    """As when Ctrl-C ends a reading while one of its processes fails: EBADF hid the Ctrl-C."""
    worker = _Worker(Path, LIMITS, ())
    close = worker._pipe._close

    def close_slowly() -> None:
        time.sleep(0.1)
        close()

    monkeypatch.setattr(worker._pipe, "_close", close_slowly)
    with ThreadPoolExecutor(2) as threads:
        for stopping in [threads.submit(worker.stop) for _ in range(2)]:
            stopping.result()
    assert not worker._process.is_alive()
