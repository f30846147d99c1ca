"""RAVDESS: what the seven parts of a file name mean."""

import pytest

from r1omni.corpora import read_clips
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.known.ravdess import read_rows


@pytest.mark.parametrize("folder", ["Actor_12", "Video_Speech_Actor_12/Actor_12"])
def test_names_become_test_clips_or_rejects(root, place, annotate, folder):
    names = {
        "01-01-02-01-02-01-12.mp4": "calm",
        "01-01-08-02-01-02-12.mp4": "surprise",
        "02-01-03-01-01-01-12.mp4": "wrong_modality",
        "03-01-03-01-01-01-12.wav": "wrong_modality",
        "01-02-03-01-01-01-12.mp4": "wrong_modality",
        "01-01-09-01-01-01-12.mp4": "unknown_label",
        "01-01-03-01-01-12.mp4": "malformed_row",
        "01-01-03-03-01-01-12.mp4": "malformed_row",
        "01-01-03-01-01-01-11.mp4": "malformed_row",
        "1-01-03-01-01-01-12.mp4": "malformed_row",
        "notes.txt": "malformed_row",
    }
    for name in names:
        place(f"{folder}/{name}")
    annotate(f"{folder}/.DS_Store", "")
    clips, rejects = read_clips("ravdess", root, workers=1)
    assert [(c.clip_id, c.label) for c in clips] == [
        ("ravdess/01-01-02-01-02-01-12", "calm"),
        ("ravdess/01-01-08-02-01-02-12", "surprise"),
    ]
    assert {(c.split, c.fold, c.subject) for c in clips} == {("test", None, "Actor_12")}
    assert {r.path.rpartition("/")[2]: r.reason for r in rejects} == {
        name: reason for name, reason in names.items() if reason not in ("calm", "surprise")
    }


def test_the_whole_corpus_has_1440_clips_96_of_them_neutral(root):
    actors = range(1, 25)
    for actor in actors:
        (root / f"Actor_{actor:02d}").mkdir()
    for emotion in range(1, 9):
        for intensity in (1,) if emotion == 1 else (1, 2):
            for take in range(4):
                for actor in actors:
                    said = f"{take // 2 + 1:02d}-{take % 2 + 1:02d}"
                    name = f"01-01-{emotion:02d}-{intensity:02d}-{said}"
                    (root / f"Actor_{actor:02d}" / f"{name}-{actor:02d}.mp4").touch()
    labels = [row.label for row in read_rows(root, 1)]
    assert len(labels) == 1440 and labels.count("neutral") == 96 and labels.count("calm") == 192


def test_a_clip_in_both_layouts_is_a_duplicate(root, place):
    for folder in ("Actor_01", "Video_Speech_Actor_01/Actor_01"):
        place(f"{folder}/01-01-01-01-01-01-01.mp4")
    clips, rejects = read_clips("ravdess", root, workers=1)
    assert len(clips) == 1 and [r.reason for r in rejects] == ["duplicate"]


def test_a_root_without_actors_says_what_was_expected(root):
    with pytest.raises(CorpusError, match=r"expected Actor_XX/ or Video_Speech_Actor_XX/Actor_XX/"):
        read_clips("ravdess", root)
