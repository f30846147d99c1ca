"""Mutated clips and annotation files: each a clip, a reject or a clear error."""

import json
import re

import pytest
import stand_ins
from mutations import KINDS, list_in, mutated, problems

from r1omni.corpora import read_clips
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.known import find_corpus


def test_mutated_clips_are_clips_or_rejects_and_never_zeros(tmp_path):
    """Four of each kind; benchmarks/mutations.py takes a thousand."""
    made = mutated(tmp_path, 4 * len(KINDS), seed=5)
    list_in(tmp_path, made)
    clips, rejects = read_clips("conversations", tmp_path, workers=2, timeout_seconds=60)
    assert problems(tmp_path, made, clips, rejects) == []
    assert {reject.reason for reject in rejects} == {"unreadable", "no_audio"}


DFEW = "EmoLabel_DataSplit/{}(single-labeled)/set_1.csv"
MAFW = "Train & Test Set/single/no_caption/set_1/{}.txt"


@pytest.mark.parametrize(
    ("corpus", "name", "old", "new", "message"),
    [
        ("dfew", DFEW.format("train"), "video_name,label", "name;emotion",
         r"set_1.csv:1: missing column video_name, label; expected the header"),
        ("dfew", DFEW.format("test"), "\n", "\n\x00\udcff", r"set_1.csv:2: byte 0xff is no UTF-8"),
        ("mafw", MAFW.format("train"), "\n", "\udc80\n", r"train.txt:1: byte 0x80 is no UTF-8"),
        ("mafw", MAFW.format("test"), None, "\n", r"test.txt:1: is empty; expected lines like"),
        ("emer", "final-EMER-reason.csv", "name,chinese", "nom,chinese",
         r"no table of reasons; expected final-EMER-reason.csv with name,chinese,english"),
        ("emer", "openset-english.csv", "name,openset", "name,labels",
         r"no table of open-vocabulary labels; expected a csv with name,openset"),
        ("conversations", "annotations.json", "}", "", r"annotations.json:\d+: not JSON"),
        ("conversations", "annotations.json", None, '{"video": 1}',
         r"annotations.json:1: expected a JSON list of .*found dict"),
    ],
)  # fmt: skip
def test_a_mutated_annotation_file_names_file_line_and_expectation(
    clips, tmp_path, corpus, name, old, new, message
):
    arguments = {"dfew": {"scale": 300, "votes": False}, "mafw": {"silent": clips["silent"],
                 "scale": 300}, "emer": {"rows": 6}, "conversations": {"rows": 6}}  # fmt: skip
    getattr(stand_ins, f"build_{corpus}")(tmp_path, [clips["good"]], **arguments[corpus])
    text = (tmp_path / name).read_text()
    mutated_text = new if old is None else text.replace(old, new, 1)
    (tmp_path / name).write_bytes(mutated_text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorpusError, match=message):
        read_clips(corpus, tmp_path, workers=1)


@pytest.mark.parametrize(
    ("corpus", "name", "old", "new", "where", "detail"),
    [
        ("dfew", DFEW.format("train"), r"\n(\d+),\d\n", r"\n\1,8\n", ":2", "known: 1 happy"),
        ("dfew", DFEW.format("test"), r"\n(\d+),\d\n", r"\nclip\n", ":2", "two cells video_name"),
        ("mafw", MAFW.format("train"), r"^(\S+) \w+", r"\1 3", ":1", "known: anger"),
        ("mafw", MAFW.format("test"), r"\.mp4 ", ".mp4,", ":1", "like '00025.mp4 anger'"),
        ("emer", "openset-english.csv", r"\"\['worried', 'tense'\]\"", "worried", ":2",
         "openset-english.csv:2: openset 'worried'; expected a list"),
        ("emer", "openset-english.csv", r"samplenew_00000000", "sample", ":2",
         "openset-english.csv has no row for 'samplenew_00000000'"),
        ("emer", "openset-english.csv", r"\"\['worried', 'tense'\]\"", "worried, tense", ":2",
         r"(malformed: line 2); expected name,openset"),
        ("conversations", "annotations.json", r"<answer>sad</answer>", "<answer>sad", ":[1]",
         "expected <think>"),
        ("conversations", "annotations.json", "sample_00000000.mp4", "sample_00000000", ":[0]",
         "has no suffix; expected .mp4 or .avi"),
    ],
)  # fmt: skip
def test_a_mutated_row_costs_one_clip_and_names_its_place(
    clips, tmp_path, corpus, name, old, new, where, detail
):
    arguments = {"dfew": {"scale": 300, "votes": False}, "mafw": {"silent": clips["silent"],
                 "scale": 300}, "emer": {"rows": 6}, "conversations": {"rows": 6}}  # fmt: skip
    getattr(stand_ins, f"build_{corpus}")(tmp_path, [clips["good"]], **arguments[corpus])
    text = (tmp_path / name).read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    (tmp_path / name).write_text(changed)
    rows = list(find_corpus(corpus).read_rows(tmp_path, 1))
    (rejected,) = (row for row in rows if hasattr(row, "reason"))
    assert rejected.where.endswith(where)
    assert detail in rejected.detail
    json.dumps(rejected.detail)
