"""DFEW: both layouts of the lists, every place of the clips, what is wrong with a row."""

import os

import pytest

from r1omni.corpora import read_clips
from r1omni.corpora.ingestion.lists import CorpusError

TRAIN = "EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
TEST = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"
HEADER = "video_name,label\n"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (TRAIN, TEST),
        (TRAIN.replace("-", "_"), TEST.replace("-", "_")),
        ("label/single_trainset_1.csv", "label/single_testset_1.csv"),
    ],
)
def test_every_layout_of_the_lists_is_read(root, place, annotate, train, test):
    annotate(train, HEADER + "1,1\n2,2\n")
    annotate(test, HEADER + "3,7\n")
    for number in (1, 2, 3):
        place(f"Clip/original/{number}.mp4")
    clips, rejects = read_clips("dfew", root, 1, workers=1)
    assert [(c.clip_id, c.label, c.split, c.fold, c.path) for c in clips] == [
        ("dfew/1", "happy", "train", 1, "Clip/original/1.mp4"),
        ("dfew/2", "sad", "train", 1, "Clip/original/2.mp4"),
        ("dfew/3", "fear", "test", 1, "Clip/original/3.mp4"),
    ]
    assert rejects == []
    assert clips[0].n_frames == 12 and clips[0].fps == 8.0 and clips[0].duration == 1.5
    assert clips[0].has_audio and len(clips[0].sha256) == 64 and clips[0].subject is None


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("1", "Clip/original/1.mp4"),
        ("00001", "Clip/original/1.mp4"),
        ("1", "Clip/original/00001.mp4"),
        ("00001.mp4", "DFEW/videos/1.mp4"),
        ("DFEW/videos/1.mp4", "DFEW/videos/1.mp4"),
        ("DFEW/videos/1.mp4", "clip/1.mp4"),
        ("1.mp4", "clip/1.mp4"),
        ("1", "videos/00001.mp4"),
    ],
)
def test_a_clip_is_found_wherever_copies_keep_it(root, place, annotate, listed, there):
    annotate(TRAIN, HEADER + f"{listed},5\n")
    annotate(TEST, HEADER + "2,3\n")
    place(there)
    clips, rejects = read_clips("dfew", root, workers=1)
    assert [(c.clip_id, c.label, c.path) for c in clips] == [("dfew/1", "surprise", there)]
    assert [(r.reason, r.where, r.path) for r in rejects] == [
        ("missing_file", f"{TEST}:2", "Clip/original/2.mp4")
    ]


def test_each_bad_row_is_rejected_with_its_reason_and_line(root, place, annotate):
    annotate(TRAIN, HEADER + "1,1\n2,0\n3,8\n4,happy\nx,1\n5\n\n1,1\n../../6.mp4,1\n7,\n/8.mp4,1\n")
    annotate(TEST, HEADER + "00001.mp4,1\n9,4\n10,6\n11,5\n12,2\n13,3\n")
    place("Clip/original/1.mp4")
    for number, kind in enumerate(("silent", "truncated", "garbage", "empty"), start=9):
        place(f"Clip/original/{number}.mp4", kind)
    clips, rejects = read_clips("dfew", root, workers=2)
    assert [c.clip_id for c in clips] == ["dfew/1"]
    assert [(r.where.removeprefix("EmoLabel_DataSplit/"), r.reason) for r in rejects] == [
        ("train(single-labeled)/set_1.csv:3", "no_single_label"),
        ("train(single-labeled)/set_1.csv:4", "unknown_label"),
        ("train(single-labeled)/set_1.csv:5", "unknown_label"),
        ("train(single-labeled)/set_1.csv:6", "malformed_row"),
        ("train(single-labeled)/set_1.csv:7", "malformed_row"),
        ("train(single-labeled)/set_1.csv:9", "duplicate"),
        ("train(single-labeled)/set_1.csv:10", "escapes_root"),
        ("train(single-labeled)/set_1.csv:11", "unknown_label"),
        ("train(single-labeled)/set_1.csv:12", "escapes_root"),
        ("test(single-labeled)/set_1.csv:2", "duplicate"),
        ("test(single-labeled)/set_1.csv:3", "no_audio"),
        ("test(single-labeled)/set_1.csv:4", "unreadable"),
        ("test(single-labeled)/set_1.csv:5", "unreadable"),
        ("test(single-labeled)/set_1.csv:6", "unreadable"),
        ("test(single-labeled)/set_1.csv:7", "missing_file"),
    ]
    assert all(r.detail and r.corpus == "dfew" for r in rejects)
    assert f"{TRAIN}:2" in rejects[9].detail  # the duplicate names where the first one stands
    assert "1 happy" in rejects[1].detail


def test_only_the_lists_of_the_fold_are_opened(root, place, annotate):
    for fold in (1, 2):
        annotate(TRAIN.replace("_1", f"_{fold}"), HEADER + f"{fold},1\n")
        annotate(TEST.replace("_1", f"_{fold}"), HEADER + f"{3 - fold},1\n")
        place(f"clip/{fold}.mp4")
    os.truncate(root / TRAIN, 0)  # fold 1 is broken, and nobody who asks for fold 2 knows
    clips, rejects = read_clips("dfew", root, 2, workers=1)
    assert [(c.clip_id, c.split, c.fold) for c in clips] == [
        ("dfew/2", "train", 2),
        ("dfew/1", "test", 2),
    ]
    assert rejects == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"set_1.csv:1: missing column video_name, label; expected .*video_name,label"),
        ("video_name\n1\n", r"set_1.csv:1: missing column label; expected"),
        ("1,1\n2,2\n", r"set_1.csv:1: missing column video_name, label"),
        ("video_name;label\n1;1\n", r"found 'video_name;label'"),
        (HEADER, r"set_1.csv:2: no rows"),
        (b"video_name,label\n1,1\n\xff\xfe\x00\n", r"set_1.csv:3: byte 0xff is no UTF-8"),
        (HEADER + '1,"' + "x" * 200_000, r"set_1.csv:\d+: not a csv file"),
    ],
)
def test_a_list_that_is_no_list_names_file_line_and_expectation(root, annotate, content, message):
    annotate(TRAIN, content)
    annotate(TEST, HEADER + "1,1\n")
    with pytest.raises(CorpusError, match=message):
        read_clips("dfew", root)


def test_a_byte_order_mark_and_windows_lines_change_nothing(root, place, annotate):
    annotate(TRAIN, b"\xef\xbb\xbfvideo_name,label\r\n1,1\r\n")
    annotate(TEST, b'"video_name", label\r2,2\r')
    place("clip/1.mp4")
    place("clip/2.mp4")
    clips, _ = read_clips("dfew", root, workers=1)
    assert [c.label for c in clips] == ["happy", "sad"]


def test_a_missing_list_names_both_layouts(root, annotate):
    annotate(TRAIN, HEADER + "1,1\n")
    with pytest.raises(CorpusError, match=r"no DFEW test list of fold 1.*or label/single_testset"):
        read_clips("dfew", root)
