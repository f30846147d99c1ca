"""The doctor on corpora of the real size, and on copies that lack something."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import stand_ins
from clip_files import LIMITS
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.config import IngestParams
from r1omni.corpora import doctor, read_clips
from r1omni.corpora.clip import read_manifest, read_rejects
from r1omni.corpora.ingestion.ingest import run_ingest
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.known import find_corpus


@pytest.fixture(scope="module")
def dfew(clips, tmp_path_factory) -> Path:
    """16,372 hard links, 11,697 rows in five folds."""
    root = tmp_path_factory.mktemp("dfew")
    stand_ins.build_dfew(root, [clips["good"]])
    return root


@pytest.fixture(scope="module")
def mafw(clips, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mafw")
    stand_ins.build_mafw(root, [clips["good"]], clips["silent"])
    return root


def texts(checks: list[doctor.Check], state: str) -> list[str]:
    return [check.text for check in checks if check.state == state]


def test_dfew_of_the_real_size_is_whole_in_every_fold(dfew):
    checks = doctor.examine("dfew", dfew)
    assert doctor.is_whole(checks)
    found = texts(checks, "ok")
    for fold, (train, test) in enumerate(
        [(9356, 2341), (9356, 2341), (9357, 2340), (9358, 2339), (9361, 2336)], start=1
    ):
        line = f"fold {fold}: {train:,} train and {test:,} test rows"
        assert f"{line}; documented: {train:,} and {test:,}" in found
    labels = "neutral 534, happy 489, angry 435, sad 379, surprise 294, fear 181, disgust 29"
    assert f"labels of the test clips: {labels}" in found
    assert "11,697 of 11,697 listed clips have their file" in found
    assert "6 clips opened, 0 unreadable, 0 without sound" in found


def test_dfew_without_a_list_and_a_clip_names_them_and_where_to_ask(dfew, tmp_path):
    (dfew / "Clip/original/1.mp4").rename(tmp_path / "1.mp4")
    lists = dfew / "EmoLabel_DataSplit/test(single-labeled)"
    (lists / "set_3.csv").rename(tmp_path / "set_3.csv")
    whole = (lists / "set_2.csv").read_text()
    (lists / "set_2.csv").write_text(whole.replace(",1\n", ",8\n", 2))
    try:
        result = CliRunner().invoke(app, ["doctor", "dfew", str(dfew)])
    finally:
        (lists / "set_2.csv").write_text(whole)
        (tmp_path / "1.mp4").rename(dfew / "Clip/original/1.mp4")
        (tmp_path / "set_3.csv").rename(lists / "set_3.csv")
    assert result.exit_code == 1
    wrong = [line for line in result.output.splitlines() if line.startswith("✗")]
    assert len(wrong) == 4
    assert "fold 2: 9,356 train and 2,339 test rows; documented: 9,356 and 2,341" in wrong[0]
    assert "2 rows rejected as unknown_label; " in wrong[1] and "set_2.csv:" in wrong[1]
    assert "no DFEW test list of fold 3" in wrong[2]
    assert "11,696 of 11,697 listed clips have their file; " in wrong[3]
    assert "set_1.csv:2 names Clip/original/1.mp4" in wrong[3]
    assert "dfew-dataset.github.io" in result.output


def test_mafw_of_the_real_size_is_whole_in_every_fold(mafw):
    checks = doctor.examine("mafw", mafw)
    assert doctor.is_whole(checks)
    found = texts(checks, "ok")
    for fold, (train, test) in enumerate(
        [(7333, 1839), (7335, 1837), (7339, 1833), (7340, 1832), (7341, 1831)], start=1
    ):
        line = f"fold {fold}: {train:,} train and {test:,} test rows"
        assert f"{line}; documented: {train:,} and {test:,}" in found
    assert "10,045 files in data/clips; documented: 10,045" in found
    compound = list(find_corpus("mafw_compound").read_rows(mafw, 5))
    assert len(compound) == 873
    assert {row.label for row in compound} == {None}
    assert {sum(share for _, share in row.soft_label) for row in compound} == {1.0}


def test_ravdess_of_the_real_size_has_7356_files_and_1440_clips(clips, tmp_path):
    stand_ins.build_ravdess(tmp_path, [clips["good"]])
    checks = doctor.examine("ravdess", tmp_path)
    assert doctor.is_whole(checks)
    assert "1,440 of them evaluated; documented: 1,440" in texts(checks, "ok")
    assert sum(1 for p in tmp_path.rglob("*") if p.is_file()) == 7356
    rows = Counter(
        getattr(row, "reason", "clip") for row in find_corpus("ravdess").read_rows(tmp_path, 1)
    )
    assert rows == {"clip": 1440, "wrong_modality": 5916}


def test_ravdess_without_an_actor_is_not_whole(clips, tmp_path):
    stand_ins.build_ravdess(tmp_path, [clips["good"]], actors=range(1, 6))
    checks = doctor.examine("ravdess", tmp_path)
    assert "300 of them evaluated; documented: 1,440" in texts(checks, "missing")
    assert "5 actors; documented: 24" in texts(checks, "missing")


@pytest.mark.parametrize("corpus", ["emer", "conversations"])
def test_reasoned_sets_of_the_real_size_are_whole(clips, tmp_path, corpus):
    getattr(stand_ins, f"build_{corpus}")(tmp_path, [clips["good"]])
    checks = doctor.examine(corpus, tmp_path)
    assert doctor.is_whole(checks)
    n = {"emer": 332, "conversations": 580}[corpus]
    assert f"{n} of {n} listed clips have their file" in texts(checks, "ok")


def test_an_unreadable_clip_and_a_folder_without_anything_fail(clips, tmp_path):
    (tmp_path / "empty").mkdir()
    checks = doctor.examine("mafw", tmp_path / "empty")
    assert not doctor.is_whole(checks)
    assert any("expected Train & Test Set/single" in text for text in texts(checks, "missing"))
    assert any("mafw-database.github.io" in text for text in texts(checks, "note"))
    assert not doctor.is_whole(doctor.examine("dfew", tmp_path / "nowhere"))
    stand_ins.build_emer(tmp_path / "emer", [clips["truncated"]])
    broken = texts(doctor.examine("emer", tmp_path / "emer"), "missing")
    assert len(broken) == 1 and "6 clips opened, 6 unreadable" in broken[0]


def test_an_unknown_corpus_is_named():
    with pytest.raises(CorpusError, match="unknown corpus 'dfwe'"):
        doctor.examine("dfwe", Path())


def test_the_doctor_runs_as_a_command(clips, tmp_path):
    stand_ins.build_emer(tmp_path, [clips["good"]])
    command = [sys.executable, "-m", "r1omni.cli", "doctor", "emer", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1] == "emer is whole"


@pytest.mark.parametrize("second_layout", [False, True])
def test_a_small_dfew_is_ingested_as_its_lists_say(clips, tmp_path, monkeypatch, second_layout):
    monkeypatch.chdir(tmp_path)
    root, out = tmp_path / "dfew", tmp_path / "out"
    stand_ins.build_dfew(root, [clips["good"]], scale=300, second_layout=second_layout,
                         padded=second_layout)  # fmt: skip
    params = IngestParams(
        max_pixels=4096 * 2304,
        missing_audio="reject",
        max_rationale_words=1000,
    )
    n_test = 7
    for fold in (1, 5):
        manifest = out / f"{fold}.parquet"
        run_ingest(
            root,
            manifest,
            out / "r.parquet",
            corpus=find_corpus("dfew"),
            fold=fold,
            ingest=params,
            limits=LIMITS,
            workers=1,
        )
        found = read_manifest(manifest)
        assert Counter(clip.split for clip in found) == {"train": 35 - n_test, "test": n_test}
        assert {clip.fold for clip in found} == {fold}
        for clip in found:
            assert max(clip.soft_label, key=lambda pair: pair[1]) == (clip.label, 0.875)
    assert read_rejects(out / "r.parquet") == []


def test_a_small_mafw_keeps_its_silent_clip_out_or_flags_it(clips, tmp_path):
    stand_ins.build_mafw(tmp_path, [clips["good"]], clips["silent"], scale=300)
    found, rejects = read_clips("mafw", tmp_path, 2, workers=1)
    assert (len(found), [r.reason for r in rejects]) == (29, ["no_audio"])
    found, rejects = read_clips("mafw", tmp_path, 2, workers=1, missing_audio="silence")
    assert (len(found), sum(not clip.has_audio for clip in found), rejects) == (30, 1, [])
