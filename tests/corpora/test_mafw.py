"""MAFW: names, compound labels, places of the clips."""

import pytest

from r1omni.corpora import read_clips
from r1omni.corpora.ingestion.lists import CorpusError

LIST = "Train & Test Set/single/no_caption/set_1/{}.txt"


def test_rows_become_clips_or_rejects_with_reason_and_line(root, place, annotate):
    annotate(
        LIST.format("train"),
        "00025.mp4 anger\n00026.mp4 contempt\r\n\n00027.mp4 anger_sadness\n"
        "00028.mp4 fear-surprise\n00029.mp4 joy\n00030.mp4 3\n00031.mp4\nclip.mp4 anger\n"
        "00025.mp4 fear\n00032.mp4 anger_joy\n",
    )
    annotate(LIST.format("test"), "00040.mp4\tdisappointment\n00025.mp4 anger\n00041.mp4 anger\n")
    for number in (25, 26, 40):
        place(f"data/clips/{number:05d}.mp4")
    clips, rejects = read_clips("mafw", root, 1, workers=1)
    assert [(c.clip_id, c.label, c.split, c.path) for c in clips] == [
        ("mafw/00025", "angry", "train", "data/clips/00025.mp4"),
        ("mafw/00026", "contemptuous", "train", "data/clips/00026.mp4"),
        ("mafw/00040", "disappointed", "test", "data/clips/00040.mp4"),
    ]
    assert [(r.where.rpartition("/")[2], r.reason) for r in rejects] == [
        ("train.txt:4", "no_single_label"),
        ("train.txt:5", "no_single_label"),
        ("train.txt:6", "unknown_label"),
        ("train.txt:7", "unknown_label"),
        ("train.txt:8", "malformed_row"),
        ("train.txt:9", "malformed_row"),
        ("train.txt:10", "duplicate"),
        ("train.txt:11", "unknown_label"),
        ("test.txt:2", "duplicate"),
        ("test.txt:3", "missing_file"),
    ]
    assert rejects[-1].where == LIST.format("test") + ":3"
    assert LIST.format("train") + ":1" in rejects[-2].detail


@pytest.mark.parametrize("there", ["clips/00025.mp4", "data/clips/25.mp4", "data/videos/00025.mp4"])
def test_close_variants_of_the_place_are_found(root, place, annotate, there):
    annotate(LIST.format("train").replace("Train & Test Set", "Train_Test_Set"), "00025.mp4 fear\n")
    annotate(LIST.format("test").replace("Train & Test Set", "Train_Test_Set"), "1.mp4 fear\n")
    place(there)
    clips, rejects = read_clips("mafw", root, workers=1)
    assert [c.path for c in clips] == [there] and [r.reason for r in rejects] == ["missing_file"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train.txt:1: is empty; expected lines like '00025.mp4 anger'"),
        (b"00025.mp4 anger\n\x80\x81", r"train.txt:2: byte 0x80 is no UTF-8"),
    ],
)
def test_a_list_that_is_no_list_names_file_line_and_expectation(root, annotate, content, message):
    annotate(LIST.format("train"), content)
    annotate(LIST.format("test"), "1.mp4 fear\n")
    with pytest.raises(CorpusError, match=message):
        read_clips("mafw", root)


def test_a_missing_list_says_where_it_was_expected(root, annotate):
    annotate(LIST.format("train"), "00025.mp4 anger\n")
    with pytest.raises(CorpusError, match=r"no MAFW train list of fold 2; expected Train & Test"):
        read_clips("mafw", root, 2)


def test_a_path_that_climbs_out_is_rejected(root, place, annotate):
    annotate(LIST.format("train"), "../00025.mp4 anger\n/data/00026.mp4 fear\n00027.mp4 fear\n")
    annotate(LIST.format("test"), "00028.mp4 fear\n")
    place("data/clips/00025.mp4")
    (root / "data/clips/00027.mp4").symlink_to("/etc/passwd")
    (root / "data/clips/00028.mp4").symlink_to(root / "data/clips/00025.mp4")
    clips, rejects = read_clips("mafw", root, workers=1)
    assert [r.reason for r in rejects] == ["escapes_root"] * 3
    assert [c.clip_id for c in clips] == ["mafw/00028"]  # a link that stays inside is a clip


def test_a_number_of_5000_digits_is_one_malformed_row(root, place, annotate):
    annotate(LIST.format("train"), f"{'1' * 5000}.mp4 anger\n00025.mp4 anger\n")
    annotate(LIST.format("test"), "00026.mp4 fear\n")
    for number in (25, 26):
        place(f"data/clips/{number:05d}.mp4")
    clips, rejects = read_clips("mafw", root, workers=1)
    assert len(clips) == 2
    assert [r.reason for r in rejects] == ["malformed_row"]
