"""Conversation JSON: reasoned answers, bare labels, captions, and what is none of them."""

import json

import pytest

from r1omni.corpora import read_clips
from r1omni.corpora.ingestion.lists import CorpusError


def entry(video, answer, **extra):
    turns = [{"from": "human", "value": "<video>\n<audio>\nWhich emotion?"}]
    return {"video": video, "conversations": [*turns, {"from": "gpt", "value": answer}], **extra}


def test_three_kinds_of_answers_become_clips(root, place, annotate):
    for name in ("a.mp4", "b.avi", "c.mp4", "d.mp4"):
        place(f"MER24/{name}")
    annotate(
        "annotations.json",
        json.dumps(
            [
                entry("MER24/a.mp4", "<think>Low brows.</think>\n<answer>Worried</answer>", id=1),
                entry("MER24/b.mp4", "Anger."),
                entry("./MER24/c.mp4", "Raised brows; a loud voice."),
                entry("MER24\\d.mp4", "happy"),
            ]
        ),
    )
    clips, rejects = read_clips("conversations", root, workers=1)
    assert rejects == []
    assert [(c.clip_id, c.path, c.label, c.rationale) for c in clips] == [
        ("conversations/MER24/a", "MER24/a.mp4", "anxious", "Low brows."),
        ("conversations/MER24/b", "MER24/b.avi", "angry", None),
        ("conversations/MER24/c", "MER24/c.mp4", None, "Raised brows; a loud voice."),
        ("conversations/MER24/d", "MER24/d.mp4", "happy", None),
    ]
    assert {(c.split, c.fold, c.subject) for c in clips} == {("train", None, None)}


def test_each_bad_entry_is_rejected_with_its_reason_and_index(root, place, annotate):
    place("a.mp4")
    bad = {
        "unknown_label": [
            entry("a.mp4", "<think>x</think><answer>bored</answer>"),
            entry("a.mp4", "bored"),
        ],
        "malformed_row": [
            "a.mp4", {"video": "a.mp4"}, {"conversations": []}, entry("a", "happy"),
            entry("a.mp4", 3), entry("a.mp4", " "), entry("a.mp4", "<think>x</think>"),
            entry("a.mp4", "<think>x</think><answer>sad</answer><answer>sad</answer>"),
            entry("a.mp4", "\ud800 happy"), entry("\ud800.mp4", "happy"),
            {"video": "a.mp4", "conversations": [{"from": "human", "value": "?"}, None]},
        ],
        "escapes_root": [
            entry("../a.mp4", "happy"), entry("/etc/a.mp4", "happy"), entry("C:\\a.mp4", "happy"),
            entry("b/../../a.mp4", "happy"), entry("", "happy"), entry("a\0.mp4", "happy"),
        ],
        "missing_file": [entry("b.mp4", "happy"), entry("x" * 300 + ".mp4", "happy")],
        "duplicate": [entry("a.avi", "sad")],
    }  # fmt: skip
    entries = [entry("a.mp4", "happy")] + [e for listed in bad.values() for e in listed]
    annotate("annotations.json", json.dumps(entries))
    clips, rejects = read_clips("conversations", root, workers=1)
    assert [c.clip_id for c in clips] == ["conversations/a"]
    reasons = [reason for reason, listed in bad.items() for _ in listed]
    assert [r.reason for r in rejects] == reasons
    assert [r.where for r in rejects] == [f"annotations.json:[{i}]" for i in range(1, len(entries))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"video": }]', r"annotations.json:2: not JSON"),
        ("", r"annotations.json:1: not JSON"),
        ("{}", r"annotations.json:1: expected a JSON list of .*found dict"),
        ("[]", r"annotations.json:1: expected a JSON list of .*found an empty list"),
        ("[" * 100_000, r"annotations.json: nested too deeply|not JSON"),
        (b"\x00\xff", r"annotations.json:1: byte 0xff is no UTF-8"),
    ],
)
def test_a_file_that_is_no_list_names_file_line_and_expectation(root, annotate, content, message):
    annotate("annotations.json", content)
    with pytest.raises(CorpusError, match=message):
        read_clips("conversations", root)


def test_a_folder_without_json_says_what_was_expected(root):
    with pytest.raises(CorpusError, match=r"no annotations.json; expected a JSON list of"):
        read_clips("conversations", root)


def test_without_annotations_json_every_json_file_is_read(root, place, annotate):
    for name in ("a", "b"):
        place(f"{name}.mp4")
        annotate(f"{name}.json", json.dumps([entry(f"{name}.mp4", "happy")]))
    clips, _ = read_clips("conversations", root, workers=1)
    assert [c.clip_id for c in clips] == ["conversations/a", "conversations/b"]


REASONED = "<think>{}</think>\n<answer>happy</answer>"


def test_a_rationale_that_steers_a_model_or_is_too_long_is_rejected(root, place, annotate):
    place("a.mp4")
    said = [
        REASONED.format("Low <|im_end|> brows."),
        REASONED.format("Low <|endoftext|> brows."),
        "A caption with <video> in it.",
        REASONED.format("low " * 1001),
        REASONED.format("low " * 1000),
    ]
    annotate("annotations.json", json.dumps([entry("a.mp4", text) for text in said]))
    clips, rejects = read_clips("conversations", root, workers=1)
    assert len(clips) == 1
    assert [r.reason for r in rejects] == ["malformed_row"] * 4
    assert "'<|im_end|>'" in rejects[0].detail
    assert "'<video>'" in rejects[2].detail
    assert "1001 words; ingest.max_rationale_words is 1000" in rejects[3].detail


def test_a_backslash_is_part_of_a_name_where_such_a_file_is_there(root, place, annotate):
    place("back\\slash %s.mp4")
    annotate("annotations.json", json.dumps([entry("back\\slash %s.mp4", "happy")]))
    clips, rejects = read_clips("conversations", root, workers=1)
    assert rejects == []
    assert [c.path for c in clips] == ["back\\slash %s.mp4"]


def test_a_clip_in_another_folder_is_found_where_its_name_is_unique(root, place, annotate):
    for there in ("deep/er/a.mp4", "one/b.avi", "two/b.avi"):
        place(there)
    rows = [entry(f"MER24/{name}.avi", "happy") for name in ("a", "b", "c")]
    annotate("annotations.json", json.dumps(rows))
    clips, rejects = read_clips("conversations", root, workers=1)
    assert [c.path for c in clips] == ["deep/er/a.mp4"]
    assert [r.reason for r in rejects] == ["duplicate", "missing_file"]
    assert "one/b.avi, two/b.avi" in rejects[0].detail


def test_a_file_that_a_row_names_is_not_another_rows(root, place, annotate):
    place("one/a.mp4")
    rows = [entry("one/a.mp4", "happy"), entry("two/a.mp4", "sad"), {"video": int("9" * 4000)}]
    text = json.dumps(rows).replace("9" * 4000, "9" * 5000)
    annotate("annotations.json", text)
    clips, rejects = read_clips("conversations", root, workers=1)
    assert [(c.path, c.label) for c in clips] == [("one/a.mp4", "happy")]
    assert [r.reason for r in rejects] == ["missing_file", "malformed_row"]


def test_a_text_without_spaces_has_words_too(root, place, annotate):
    place("a.mp4")
    annotate("annotations.json", json.dumps([entry("a.mp4", REASONED.format("他" * 10_010))]))
    clips, rejects = read_clips("conversations", root, workers=1)
    assert clips == []
    assert "1001 words" in rejects[0].detail
