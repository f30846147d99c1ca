"""Validation: a clean set of manifests passes; each broken rule is named with its clips."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_labels import LABELS

from r1omni.config import ValidationParams
from r1omni.corpora.clip import Clip, write_manifest
from r1omni.corpora.validation import ValidationFailed, run_validate
from r1omni.training_config import HeldOutParams

PARAMS = ValidationParams(
    min_seconds=0.5,
    max_seconds=60.0,
    min_clips_per_label=2,
    min_clips=3,
    max_copies=0,
    same_sound=0.82,
)
HELD_OUT = HeldOutParams(clips=0, seed=1, every=1)
GOOD = Clip(
    clip_id="dfew/0", corpus="dfew", path="clip/0.mp4", label="happy", split="train", fold=1,
    subject=None, rationale=None, duration=1.5, fps=8.0, n_frames=12, has_audio=True, sha256="0",
)  # fmt: skip


def dfew() -> list[Clip]:
    """Two clips of each label in each split, 28 in all: dfew/0 … dfew/27."""
    return [
        replace(GOOD, clip_id=f"dfew/{n}", path=f"clip/{n}.mp4", label=label, split=split,
                sha256=f"{n:064d}")
        for n, (split, label, _) in enumerate(
            (split, label, copy) for split in ("train", "test") for label in LABELS["dfew"]
            for copy in range(2))
    ]  # fmt: skip


def captions() -> list[Clip]:
    return [
        replace(GOOD, clip_id=f"conversations/{n}", corpus="conversations", label=None, fold=None,
                rationale="The brows are raised.", sha256=f"c{n}", path=f"{n}.avi")
        for n in range(3)
    ]  # fmt: skip


def validate(folder: Path, *, missing_audio: str = "reject", **manifests: list[Clip]) -> None:
    paths = []
    for name, clips in manifests.items():
        paths.append(folder / "manifests" / f"{name}.parquet")
        write_manifest(clips, paths[-1])
    run_validate(
        paths, folder / "summary.json", folder / "docs", validation=PARAMS,
        missing_audio=missing_audio, corpora={}, held_out=HELD_OUT,
    )  # fmt: skip


def failures(folder: Path) -> set[tuple[str, str]]:
    with (folder / "failures.csv").open() as file:
        return {(row["rule"], row["clip_id"]) for row in csv.DictReader(file)}


def test_clean_manifests_pass_with_summary_docs_and_an_empty_list_of_failures(tmp_path):
    validate(tmp_path, dfew=dfew(), generic=captions())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["success"] and all(rule["success"] for rule in summary["rules"])
    assert {rule["rule"]: rule["evaluated"] for rule in summary["rules"]} == {
        "unique_clip_id": 31, "complete": 31, "known_label": 31, "fit_for_role": 31,
        "known_split": 31,
        "path_in_root": 31, "duration": 31, "has_frames": 31, "frame_rate": 31, "has_audio": 31,
        "subject_in_one_split": 0, "content_in_one_split": 31, "one_fold": 31,
        "content_has_one_label": 31, "content_once": 31,
        "enough_clips_per_label": 28, "enough_clips": 31, "no_empty_manifest": 2,
        "every_label_occurs": 14,
    }  # fmt: skip
    assert summary["manifests"]["generic"] == {
        "clips": 3, "corpora": ["conversations"], "folds": [], "splits": {"train": {"none": 3}},
    }  # fmt: skip
    assert summary["manifests"]["dfew"]["splits"]["test"] == dict.fromkeys(
        sorted(LABELS["dfew"]), 2
    )
    assert (tmp_path / "failures.csv").read_text() == "rule,manifest,clip_id,detail\n"
    assert "Great Expectations" in (tmp_path / "docs" / "index.html").read_text()
    first = (tmp_path / "summary.json").read_bytes()
    validate(tmp_path, dfew=dfew(), generic=captions())
    assert (tmp_path / "summary.json").read_bytes() == first  # no clock in it
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "docs", "failures.csv", "manifests", "summary.json",
    ]  # fmt: skip


BROKEN = {
    "what a row says": (
        {3: {"label": "calm"}, 5: {"label": None}, 7: {"split": "valid"},
         9: {"path": "../x.mp4"}, 11: {"path": "/etc/passwd"}, 13: {"sha256": None}},
        {("known_label", "dfew/3"), ("known_label", "dfew/5"), ("known_split", "dfew/7"),
         ("path_in_root", "dfew/9"), ("path_in_root", "dfew/11"), ("complete", "dfew/13")},
    ),
    "what is in the file": (
        {3: {"duration": 0.4}, 5: {"duration": 61.0}, 7: {"n_frames": 0}, 9: {"fps": 0.0},
         11: {"has_audio": False}, 13: {"fold": 2}},
        {("duration", "dfew/3"), ("duration", "dfew/5"), ("has_frames", "dfew/7"),
         ("frame_rate", "dfew/9"), ("has_audio", "dfew/11"), ("one_fold", "dfew/13")},
    ),
    "two splits": (
        {3: {"subject": "Actor_01"}, 20: {"subject": "Actor_01"},
         5: {"sha256": "same"}, 22: {"sha256": "same"}},
        {("subject_in_one_split", "dfew/3"), ("subject_in_one_split", "dfew/20"),
         ("content_in_one_split", "dfew/5"), ("content_in_one_split", "dfew/22")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("about", BROKEN)
def test_broken_rules_are_named_with_their_clips(tmp_path, about):
    """A validation takes a second, so each breaks several rules, by other clips."""
    changes, broken = BROKEN[about]
    clips = [replace(clip, **changes.get(n, {})) for n, clip in enumerate(dfew())]
    # what else these changes leave too few of is another test's matter
    with pytest.raises(ValidationFailed) as error:
        validate(tmp_path, dfew=clips)
    floors = {"enough_clips_per_label", "every_label_occurs"}
    assert {f for f in failures(tmp_path) if f[0] not in floors} == broken
    for rule, clip_id in broken:
        assert any(rule in line and clip_id in line for line in str(error.value).splitlines())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not summary["success"]
    unexpected = {r["rule"]: r["unexpected"] for r in summary["rules"] if r["rule"] not in floors}
    assert {k: v for k, v in unexpected.items() if v} == Counter(rule for rule, _ in broken)


def test_a_clip_id_that_stands_twice_is_named(tmp_path):
    with pytest.raises(ValidationFailed, match="unique_clip_id 2"):
        validate(tmp_path, dfew=dfew(), again=[dfew()[0], *captions()])
    assert failures(tmp_path) >= {("unique_clip_id", "dfew/0")}


MARKUP = "<script>alert(1)</script>"
QUOTED = "<b onclick='x()'>\"&amp;\""


def test_markup_in_a_cell_is_text_in_the_pages_and_itself_in_the_failures(tmp_path):
    changes = {
        3: {"clip_id": f"dfew/{MARKUP}", "duration": 0.1},
        5: {"label": MARKUP},
        6: {"split": QUOTED},
        7: {"clip_id": QUOTED},
        8: {"clip_id": QUOTED},
    }
    clips = [replace(clip, **changes.get(n, {})) for n, clip in enumerate(dfew())]
    with pytest.raises(ValidationFailed) as error:
        validate(tmp_path, dfew=clips, **{QUOTED: captions()})
    small = {("enough_clips_per_label", n) for n in ("dfew/4", "dfew/5", "dfew/6", QUOTED)}
    assert failures(tmp_path) - small == {
        ("duration", f"dfew/{MARKUP}"), ("known_label", "dfew/5"), ("known_split", "dfew/6"),
        ("unique_clip_id", QUOTED),
    }  # fmt: skip
    assert small < failures(tmp_path)
    table = (tmp_path / "failures.csv").read_text()
    assert f"split is {QUOTED}" in str(error.value) and f"(dfew/train/{MARKUP})" in table
    pages = [page.read_text() for page in (tmp_path / "docs").rglob("*.html")]
    assert not any(raw in page for page in pages for raw in (MARKUP, "<b onclick", "onclick='"))
    shown = "dfew/&lt;script&gt;alert(1)&lt;/script&gt;"
    assert any(shown in page for page in pages)


def test_names_with_markup_break_no_rule(tmp_path):
    names = ["<b>", "&lt;b&gt;", "it's", '"&"']  # the second is the first, escaped: still two names
    clips = [
        replace(clip, clip_id=f"{name}{n}", path=f"{name}.mp4", sha256=f"{name}{n}")
        for name in names for n, clip in enumerate(dfew())
    ]  # fmt: skip
    validate(tmp_path, **{name: clips[n * 28 : n * 28 + 28] for n, name in enumerate(names)})
    assert (tmp_path / "failures.csv").read_text() == "rule,manifest,clip_id,detail\n"


def test_too_few_and_absent_labels_are_both_found(tmp_path):
    few = [clip for clip in dfew() if clip.clip_id != "dfew/0"]  # neutral, train: one is left
    none = [clip for clip in few if not (clip.split == "test" and clip.label == "disgust")]
    with pytest.raises(ValidationFailed, match="no clip of dfew/test/disgust"):
        validate(tmp_path, dfew=none)
    assert failures(tmp_path) == {
        ("enough_clips_per_label", "dfew/1"),
        ("every_label_occurs", ""),
    }
    assert "clips_of_label is 1 (dfew/train/neutral)" in (tmp_path / "failures.csv").read_text()


def test_a_small_and_an_empty_manifest_are_both_found(tmp_path):
    with pytest.raises(ValidationFailed, match="no clip of mafw"):
        validate(tmp_path, dfew=dfew(), generic=captions()[:2], mafw=[])
    assert failures(tmp_path) == {
        ("enough_clips", "conversations/0"),
        ("enough_clips", "conversations/1"),
        ("no_empty_manifest", ""),
    }


def test_only_empty_manifests_fail_too(tmp_path):
    with pytest.raises(ValidationFailed, match="no_empty_manifest 1"):
        validate(tmp_path, dfew=[])


def test_silent_clips_pass_where_silence_is_allowed(tmp_path):
    clips = [replace(clip, has_audio=False) for clip in dfew()]
    validate(tmp_path, dfew=clips, missing_audio="silence")
    assert json.loads((tmp_path / "summary.json").read_text())["success"]


def test_many_failures_are_cut_on_screen_and_whole_in_the_csv(tmp_path):
    clips = [replace(clip, duration=0.1) for clip in dfew()]
    with pytest.raises(ValidationFailed) as error:
        validate(tmp_path, dfew=clips)
    assert "duration 28" in str(error.value) and "… and 8 more in" in str(error.value)
    assert len(failures(tmp_path)) == 28


def test_a_manifest_without_a_column_is_named(tmp_path):
    write_manifest(dfew(), tmp_path / "dfew.parquet")
    pd.read_parquet(tmp_path / "dfew.parquet").drop(columns="sha256").to_parquet(
        tmp_path / "dfew.parquet"
    )
    with pytest.raises(ValueError, match=r"dfew.parquet: missing columns \['sha256'\]"):
        run_validate(
            [tmp_path / "dfew.parquet"], tmp_path / "s.json", tmp_path / "docs",
            validation=PARAMS, missing_audio="reject", corpora={}, held_out=HELD_OUT,
        )  # fmt: skip


def test_data_docs_need_no_network_and_are_equal_bytes_for_equal_results(tmp_path):
    pages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        validate(tmp_path / name, dfew=dfew())
        (page,) = (tmp_path / name / "docs").rglob("*")
        pages.append(page.read_text())
    assert pages[0] == pages[1]
    assert "no clip stands twice" in pages[0]
    assert "<script" not in pages[0]
    assert not re.search(r"<(link|img|iframe)[^>]*https?:", pages[0])


def test_of_corpora_that_name_no_subjects_it_is_not_known_whether_they_are_apart(tmp_path):
    validate(tmp_path, dfew=[replace(clip, subject=None) for clip in dfew()])
    rules = {r["rule"]: r for r in json.loads((tmp_path / "summary.json").read_text())["rules"]}
    assert rules["subject_in_one_split"]["success"] == "not known"
    assert "not known for dfew" in rules["subject_in_one_split"]["text"]
    assert rules["content_in_one_split"]["success"] is True


def test_many_names_or_two_labels_for_the_same_bytes_are_named(tmp_path):
    """In dfew, clips 2 and 3 are two of one label and split, 4 has another label."""
    clips = [replace(c, sha256="same") if n in (2, 3, 4) else c for n, c in enumerate(dfew())]
    with pytest.raises(ValidationFailed, match=r"validation\.max_copies|content_once"):
        validate(tmp_path, dfew=clips)
    assert failures(tmp_path) == {
        (rule, f"dfew/{n}") for rule in ("content_has_one_label", "content_once") for n in (2, 3, 4)
    }
    with pytest.raises(ValidationFailed, match="content_once 2"):
        validate(
            tmp_path, dfew=[replace(c, sha256="a") if n < 2 else c for n, c in enumerate(dfew())]
        )


def test_a_sound_in_two_splits_is_refused_with_both_files_and_their_likeness(tmp_path):
    """dfew/3 trains, ravdess/1 tests; a tenth of the signs of its print are others."""
    bits = np.random.default_rng(0).integers(0, 2, 48 * 16)
    other = np.where(np.arange(bits.size) % 20 == 0, 1 - bits, bits)  # cosine 1 - 2 / 20
    texts = [np.packbits(np.concatenate([b, 1 - b])).tobytes().hex() for b in (bits, other)]
    clips = [replace(c, sound_print=texts[0]) if n == 3 else c for n, c in enumerate(dfew())]
    tested = replace(GOOD, clip_id="ravdess/1", corpus="ravdess", split="test", path="b.wav",
                     sha256="r", sound_print=texts[1])  # fmt: skip
    with pytest.raises(ValidationFailed, match=r"content_in_one_split"):
        validate(tmp_path, dfew=clips, ravdess=[tested])
    with (tmp_path / "failures.csv").open() as file:
        details = [r["detail"] for r in csv.DictReader(file) if r["rule"] == "content_in_one_split"]
    alike = "(sound 0.90 alike, pictures 0.00)"
    assert details == [
        f"splits_of_content is 2: dfew train clip/3.mp4 is ravdess test b.wav {alike}",
        f"splits_of_content is 2: ravdess test b.wav is dfew train clip/3.mp4 {alike}",
    ]
