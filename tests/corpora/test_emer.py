"""EMER: reasons and open-vocabulary labels of the same names, in both versions."""

import pytest

from r1omni.corpora import read_clips
from r1omni.corpora.ingestion.lists import CorpusError

REASONS = (
    "name,chinese,english\n"
    'sample_00000967,他,"He frowns,\nand is quiet."\n'
    "samplenew_00004251,她,She smiles.\n"
    "sample_00000001,,Nothing known.\n"
    "sample_00000002,,Not a list.\n"
    "sample_00000003,,\n"
    "sample_00000004,,Code.\n"
    "../sample_5,,Outside.\n"
    "sample_00000006,,No clip.\n"
    "sample_00000967,,Again.\n"
)
LABELS = (
    "name,openset\n"
    "sample_00000967,\"['puzzled', 'Worried', 'sad']\"\n"
    "samplenew_00004251,\"['happy']\"\n"
    "sample_00000001,\"['puzzled']\"\n"
    "sample_00000002,puzzled\n"
    "sample_00000003,\"['sad']\"\n"
    "sample_00000004,\"[__import__('os').getcwd()]\"\n"
    "sample_00000006,\"['sad']\"\n"
)


def test_reasons_and_labels_are_joined_by_name(root, place, annotate):
    annotate("final-EMER-reason.csv", REASONS)
    annotate("openset-english.csv", LABELS)
    place("video/sample_00000967.avi")
    place("samplenew_00004251.mp4")
    clips, rejects = read_clips("emer", root, workers=1)
    assert [(c.clip_id, c.path, c.label, c.rationale, c.split) for c in clips] == [
        ("emer/sample_00000967", "video/sample_00000967.avi", "anxious",
         "He frowns,\nand is quiet.", "train"),
        ("emer/samplenew_00004251", "samplenew_00004251.mp4", "happy", "She smiles.", "train"),
    ]  # fmt: skip
    assert [(r.where, r.reason) for r in rejects] == [
        ("final-EMER-reason.csv:5", "unknown_label"),
        ("final-EMER-reason.csv:6", "malformed_row"),
        ("final-EMER-reason.csv:7", "malformed_row"),
        ("final-EMER-reason.csv:8", "malformed_row"),
        ("final-EMER-reason.csv:9", "escapes_root"),
        ("final-EMER-reason.csv:10", "missing_file"),
        ("final-EMER-reason.csv:11", "duplicate"),
    ]


def test_version_one_brings_its_own_labels(root, place, annotate):
    annotate(
        "EMER.csv", 'names,emotions,subtitles,reasons\nsample_1,"worried, sad",Hm.,He sighs.\n'
    )
    place("sample_1.avi")
    clips, rejects = read_clips("emer", root, workers=1)
    assert [(c.label, c.rationale) for c in clips] == [("anxious", "He sighs.")] and rejects == []


def test_tables_of_both_versions_are_refused_by_their_names(root, annotate):
    annotate("final-EMER-reason.csv", REASONS)
    annotate("openset-english.csv", LABELS)
    annotate("EMER.csv", "names,emotions,subtitles,reasons\nsample_1,sad,Hm.,He sighs.\n")
    both = r"two tables of reasons, final-EMER-reason.csv \(name,.* and EMER.csv .*names,emotions"
    with pytest.raises(CorpusError, match=both):
        read_clips("emer", root, workers=1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no table of reasons; expected final-EMER-reason.csv with name,chinese,english"),
        ({"a.csv": "name,openset\nx,[]\n"}, r"no table of reasons.*found a.csv with name,openset"),
        ({"a.csv": REASONS}, r"no table of open-vocabulary labels; expected a csv with name,open"),
        ({"a.csv": b"\xff\n"}, r"a.csv:1: byte 0xff is no UTF-8"),
    ],
)
def test_missing_tables_are_named_with_their_columns(root, annotate, files, message):
    for name, content in files.items():
        annotate(name, content)
    with pytest.raises(CorpusError, match=message):
        read_clips("emer", root)


def test_clips_in_a_folder_of_another_name_are_found(root, place, annotate):
    annotate("final-EMER-reason.csv", "name,chinese,english\nsample_1,,He sighs.\n")
    annotate("openset-english.csv", "name,openset\nsample_1,\"['sad']\"\n")
    place("MER24/sample_1.avi")
    clips, rejects = read_clips("emer", root, workers=1)
    assert rejects == []
    assert [c.path for c in clips] == ["MER24/sample_1.avi"]
