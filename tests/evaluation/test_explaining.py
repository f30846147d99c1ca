"""One clip explained: a model that says what the test wants, judges whose verdicts are known."""

import json
import re
from dataclasses import replace

import av
import numpy as np
import pytest
from clip_files import LIMITS, write_clip
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.completions import render
from r1omni.evaluation import explaining
from r1omni.evaluation.audit.backbone_answerer import BackboneAnswerer
from r1omni.evaluation.explaining import NO_JUDGES, explain_files
from r1omni.inference.files import ONE_COLOUR, Refusal, read_file
from r1omni.inference.judged import (
    LEVEL_TOO_LOUD,
    OTHER_TOWERS,
    TOO_SHORT,
    UNKNOWN_LABELS,
    UNRELIABLE,
    Judges,
    read_judges,
    verdict_on,
)
from r1omni.judges.acoustics import MEASURES
from r1omni.judges.judge import ClaimJudge, Probe, write_judge
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, write_reader

RATIONALE = "I see raised brows; I hear a loud and slow voice."
LABELS = ("angry", "sad")


def judge_of(side, n, verdicts):
    """A judge that finds the same of every clip, by its biases alone."""
    probes = {
        name: Probe(np.zeros((n, 3)), np.log(p), 0.9, judged=True, n=60)
        for name, p in verdicts.items()
    }
    return ClaimJudge(side, probes, np.zeros(n), np.ones(n), None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")


@pytest.fixture(scope="module")
def judges(tiny, clip):
    n = len(picture_row(tiny.encode([read_file(clip, tiny.preparation).inputs])[0]))
    reader = Reader(
        LABELS, False, {"brows +1": 0, "loudness +1": 1},
        np.array([[0.5, 0.0], [1.0, -1.0]]), np.array([0.0, 0.25]), 0.9, 60,
    )  # fmt: skip
    face = judge_of("face", n, {"brows": (0.1, 0.8, 0.1)})
    return Judges((face, judge_of("voice", len(MEASURES), {"loudness": (0.1, 0.2, 0.7)})), reader)


@pytest.fixture
def says(monkeypatch, tiny):
    """The model writes one rationale whatever it is given."""
    monkeypatch.setattr(tiny, "answer_mode", "reasoned", raising=False)
    monkeypatch.setattr(
        BackboneAnswerer, "complete", lambda _, media: [render(RATIONALE, "sad")] * len(media)
    )


def explained(files, tiny, judges):
    how = {"labels": LABELS, "max_new_tokens": 4, "limits": LIMITS}
    return list(explain_files(files, tiny, judges, **how))


def test_each_claim_has_its_verdict_and_weight_and_the_reader_answers(tiny, clip, judges, says):
    (found,) = explained([clip], tiny, judges)
    assert [(c.words, c.verdict) for c in found.claims] == [
        ("raised", "contradicted"), ("loud", "supported"), ("slow", "not judged"),
    ]  # fmt: skip
    assert [c.probability for c in found.claims] == [pytest.approx(0.1), pytest.approx(0.7), None]
    weights = [c.weight for c in found.claims]
    assert (found.reader, weights) == ("angry", [0.5, 1.0, 0.0])
    assert sum(weights) + 0.0 == judges.reader.logits([RATIONALE])[0, 0]  # the bias is 0
    assert found.reader_probability == pytest.approx(1 / (1 + np.exp(-0.75 - 1.5)))
    assert found.prediction == "sad" and found.reversed in LABELS
    assert found.shares is not None and sum(found.shares.values()) == pytest.approx(1)
    assert LEVEL_TOO_LOUD in found.notes
    assert json.loads(found.as_json())["claims"][1]["attribute"] == "loudness"


def test_a_silent_clip_has_no_verdict_of_a_voice_and_sound_has_no_share(
    tiny, tmp_path, judges, says
):
    silent = write_clip(tmp_path / "silent.mp4", audio=None)
    found, refused = explained([silent, Refusal("x", "is no file")], tiny, judges)
    assert [c.verdict for c in found.claims] == ["contradicted", "not judged", "not judged"]
    assert found.shares is None or found.shares["audio"] == pytest.approx(0, abs=1e-4)
    assert any(note.startswith("no sound: nothing") for note in found.notes)
    assert refused == Refusal("x", "is no file")


@pytest.mark.parametrize(("grey", "is_judged"), [(0, False), (40, True)])
def test_of_black_frames_no_claim_of_a_face_is_judged(
    tiny, tmp_path, judges, says, grey, is_judged
):
    """Frames of 64 x 32: darkness stands between two stripes of padding."""
    shade = np.full((32, 64, 3), 0, dtype=np.uint8)
    shade[12:20, 24:40] = grey
    with av.open(str(tmp_path / "dark.mp4"), "w") as container:
        picture = container.add_stream("libx264", rate=8)
        picture.width, picture.height, picture.pix_fmt = 64, 32, "yuv420p"
        for _ in range(8):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(picture.encode())
    (found,) = explained([tmp_path / "dark.mp4"], tiny, judges)
    assert found.claims[0].verdict == ("contradicted" if is_judged else "not judged")
    said = {ONE_COLOUR, "no picture: nothing that is said of a face can be judged"}
    assert said & set(found.notes) == (set() if is_judged else said)


@pytest.mark.parametrize(("seconds", "is_judged"), [(0.1, False), (1.0, True)])
def test_a_voice_of_a_few_hundredths_of_a_second_is_not_judged(
    tiny, clip, judges, monkeypatch, seconds, is_judged
):
    """Of a short tone the judge would be as sure as of a sentence."""
    file = read_file(clip, tiny.preparation)
    tone = np.sin(2 * np.pi * 180 * np.arange(round(16000 * seconds)) / 16000).astype(np.float32)
    file = replace(file, waveform=tone)
    verdict, notes = verdict_on(file, tiny.encode([file.inputs])[0], judges)
    assert ("loudness" in verdict, TOO_SHORT in notes) == (is_judged, not is_judged)


def test_without_judges_all_else_is_said(tiny, clip, says):
    (found,) = explained([clip], tiny, None)
    assert {c.verdict for c in found.claims} == {"not judged"}
    assert (found.reader, found.notes) == (None, (NO_JUDGES,))
    assert found.muted.rationale == RATIONALE and found.reversed in LABELS


def test_the_command_prints_no_control_character_and_one_line_of_json(
    tiny, clip, judges, says, tmp_path, monkeypatch
):
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.processor.save_pretrained(tmp_path / "model")
    for side in judges.sides:
        write_judge(side, tmp_path / "judges")
    write_reader(judges.reader, tmp_path / "judges" / "reader.json")
    evil = render(f"\x1b[2J{RATIONALE[:-1]}, not high.", "sad")
    monkeypatch.setattr(BackboneAnswerer, "complete", lambda _, media: [evil] * len(media))
    monkeypatch.chdir(tmp_path)
    model = ["--model", "model", "--judges", "judges", "--mode", "reasoned"]
    done = CliRunner().invoke(app, ["audit", str(clip), *model])
    assert done.exit_code == 0, done.exception
    assert "\x1b" not in done.stdout and "contradicted" in done.stdout
    assert re.search(r"^ +not high +pitch ", done.stdout, re.MULTILINE)
    done = CliRunner().invoke(app, ["audit", str(clip), "nowhere.mp4", *model, "--json"])
    assert done.exit_code == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert set(first) == set(explaining.Explanation.__annotations__)
    assert first["absent"] == "darkness and silence"
    assert set(second) == {"file", "refused"}


def test_nothing_is_cut_in_a_pipe_and_a_wrong_folder_of_judges_is_an_error(
    tiny, clip, says, tmp_path, monkeypatch
):
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.processor.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    words = "The face is at rest; the voice is high, soft, fast, steady, harsh and so on and on."
    said = [render(words, "sad")]
    monkeypatch.setattr(BackboneAnswerer, "complete", lambda _, media: said * len(media))
    asks = ["audit", str(clip), "--model", "model", "--mode", "reasoned"]
    done = CliRunner().invoke(app, asks)
    assert done.exit_code == 0, done.exception
    assert f"  {words}" in done.stdout.splitlines()
    assert "weight" in done.stdout and "…" not in done.stdout
    done = CliRunner().invoke(app, [*asks, "--judges", "nowhere"])
    assert done.exit_code != 0
    assert "nowhere: no such folder" in done.output + str(done.exception)


def test_an_answer_beside_the_asked_labels_is_noted_and_the_readers_share_is_among_them(
    tiny, clip, judges, says
):
    options = {"labels": ("angry",), "max_new_tokens": 8, "limits": LIMITS}
    (found,) = explain_files([clip], tiny, judges, **options)
    assert (found.reader, found.reader_probability) == ("angry", pytest.approx(1.0))
    assert any(note.startswith("sad is none of the labels") for note in found.notes)


def test_a_direct_answer_has_no_note_on_judging(tiny, clip, judges, says, monkeypatch):
    monkeypatch.setattr(tiny, "answer_mode", "direct")
    monkeypatch.setattr(BackboneAnswerer, "complete", lambda _, media: ["sad"] * len(media))
    (found,) = explained([clip], tiny, judges)
    assert found.prediction == "sad" and LEVEL_TOO_LOUD not in found.notes


def test_an_answer_that_is_no_emotion_is_noted_beside_its_shares(tiny, clip, judges, monkeypatch):
    monkeypatch.setattr(tiny, "answer_mode", "reasoned", raising=False)
    said = render(RATIONALE, "glorp")
    monkeypatch.setattr(BackboneAnswerer, "complete", lambda _, media: [said] * len(media))
    (found,) = explained([clip], tiny, judges)
    assert found.prediction is None and found.shares is not None
    note = "the answer is no known emotion: the shares are of the likeliest label, "
    assert [n.removeprefix(note) in LABELS for n in found.notes if n.startswith(note)] == [True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"mean": np.zeros(9)},
            r"voice.safetensors: a tensor of the shape \(22,\), expected \(9,\)",
        ),
        ({"scale": np.zeros(22)}, "voice.safetensors: a scale is not above 0"),
        ({"components": np.ones((22, 5))}, r"\(22, 3\), expected \(5, 3\)"),
        ({"mean": np.full(22, np.nan)}, "voice.safetensors: a number is not finite"),
        ({"side": "face"}, "face.json: loudness: no attribute of a face; known: brows, eyes"),
    ],
)
def test_damaged_judges_are_refused_with_their_file(judges, tmp_path, change, said):
    face, voice = judges.sides
    write_judge(face, tmp_path)
    write_judge(replace(voice, **change), tmp_path)
    write_reader(judges.reader, tmp_path / "reader.json")
    with pytest.raises(ValueError, match=said):
        read_judges(tmp_path)


def test_what_no_judge_passed_for_and_what_the_reader_does_not_know_is_said(
    tiny, clip, judges, says
):
    face, voice = judges.sides
    probes = {name: replace(probe, judged=False) for name, probe in voice.probes.items()}
    face = replace(face, towers="another model's")
    unsure = replace(judges, sides=(face, replace(voice, probes=probes)))
    how = {"labels": ("happy", "fear"), "max_new_tokens": 4, "limits": LIMITS}
    (found,) = explain_files([clip], tiny, unsure, **how)
    assert [c.verdict for c in found.claims] == ["contradicted", "not judged", "not judged"]
    assert UNRELIABLE.format("voice") in found.notes and LEVEL_TOO_LOUD not in found.notes
    assert OTHER_TOWERS in found.notes
    assert found.reader in LABELS and UNKNOWN_LABELS in found.notes


def test_judges_of_other_measures_of_the_sound_are_refused(judges, tmp_path):
    for judge in (judges.sides[0], judge_of("voice", 21, {"loudness": (0.1, 0.2, 0.7)})):
        write_judge(judge, tmp_path)
    write_reader(judges.reader, tmp_path / "reader.json")
    with pytest.raises(ValueError, match="calibrated on 21 measures of the sound, this version"):
        read_judges(tmp_path)
