"""The reader answers in the model's place, over several samples of which the judges choose one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_files import LIMITS, write_clip
from noise import noise_features
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.completions import render
from r1omni.inference import answer as answering
from r1omni.inference.answer import Answer, ByReader, answer_batches
from r1omni.inference.files import read_file
from r1omni.inference.greedy import Answered, answer_batch
from r1omni.inference.hearing import read_and_hear
from r1omni.inference.judged import OTHER_TOWERS, UNKNOWN_LABELS, Judges
from r1omni.inference.options import DEFAULTS
from r1omni.inference.sampled import sample_answers
from r1omni.inference.served import reader_of
from r1omni.inference.service import Service
from r1omni.judges.acoustics import MEASURES
from r1omni.judges.judge import ClaimJudge, Probe
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, write_reader

BROWS = render("The brows are raised.", "sad")
LOUD = render("The voice is loud.", "angry")
ASKED = ("happy", "sad", "fear")


def judge_of(side: Any, n: int, verdicts: dict[str, tuple[float, float, float]]) -> ClaimJudge:
    """A judge that finds the same of every clip, by its biases alone."""
    probes = {
        name: Probe(np.zeros((n, 3)), np.log(p), 0.9, judged=True, n=60)
        for name, p in verdicts.items()
    }
    return ClaimJudge(side, probes, np.zeros(n), np.ones(n), None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")


@pytest.fixture(scope="module")
def judges(tiny: Any, clip: Path) -> Judges:
    n = len(picture_row(tiny.encode([read_file(clip, tiny.preparation).inputs])[0]))
    weights = np.array([[np.log(3.0), 0.0]])
    reader = Reader(("happy", "sad"), False, {"brows +1": 0}, weights, np.zeros(2), 1.0, 60)
    face = judge_of("face", n, {"brows": (0.1, 0.8, 0.1)})
    return Judges((face, judge_of("voice", len(MEASURES), {"loudness": (0.1, 0.2, 0.7)})), reader)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> Any:
    """A function that tells the model what it writes when it is asked for several completions."""
    monkeypatch.setattr(tiny, "answer_mode", "reasoned", raising=False)

    def say(*completions: str) -> None:
        found = [Answered(text, True, 3, -1.0) for text in completions]
        monkeypatch.setattr(answering, "sample_answers", lambda *_, **__: found)

    return say


def answered(clip: Path, tiny: Any, by: ByReader) -> Answer:
    how = {"labels": ASKED, "batch_size": 4, "max_new_tokens": 4, "limits": LIMITS}
    ((found,),) = answer_batches([clip], tiny, by=by, **how)
    assert isinstance(found, Answer)
    return found


def test_the_readers_mean_answers_and_the_sample_that_the_judges_support_is_shown(
    tiny: Any, clip: Path, judges: Judges, says: Any
) -> None:
    says(BROWS, LOUD, "no form at all")
    face = replace(judges.sides[0], towers=tiny.tower_fingerprint())
    found = answered(clip, tiny, ByReader(replace(judges, sides=(face, judges.sides[1])), 3, 0.7))
    assert OTHER_TOWERS not in found.notes
    # raised brows: p(happy) 3/4; a loud voice says nothing to this reader: 1/2; their mean
    assert found.prediction == "happy"
    assert found.probabilities == pytest.approx({"happy": 0.625, "sad": 0.375, "fear": 0.0})
    # support: brows (.1 / 3 + 0) / 2, loudness (0 + .7 / 3) / 2
    assert (found.completion, found.judged.prediction, found.samples) == (LOUD, "angry", 3)
    assert any("1 of 3 completions have no rationale" in note for note in found.notes)
    assert ": happy, read from 3 completions (the one shown answers angry)" in found.as_text()
    said = json.loads(found.as_json())
    assert (said["answered_by"], said["samples"], said["rationale"]) == (
        "reader", 3, "The voice is loud.",
    )  # fmt: skip


def test_in_silence_no_claim_of_a_voice_is_supported(
    tiny: Any, tmp_path: Path, judges: Judges, says: Any
) -> None:
    says(LOUD, BROWS)
    silent = write_clip(tmp_path / "silent.mp4", audio=None)
    face = replace(judges.sides[0], towers="another model's")
    judges = replace(judges, sides=(face, judges.sides[1]))
    found = answered(silent, tiny, ByReader(judges, 2, 0.7))
    assert OTHER_TOWERS in found.notes
    assert found.completion == BROWS  # .1 / 3 of the face alone, against 0
    assert any(note.startswith("no sound: nothing") for note in found.notes)


def test_without_any_rationale_the_model_answers_and_that_is_said(
    tiny: Any, clip: Path, judges: Judges, says: Any
) -> None:
    says("no form", "none either")
    found = answered(clip, tiny, ByReader(judges, 2, 0.7))
    assert (found.read, found.samples) == (None, 1)
    assert "answered by the model: none of 2 completions has a rationale" in found.notes


def test_without_any_judge_the_first_completion_is_shown_and_that_is_said(
    tiny: Any, clip: Path, judges: Judges, says: Any
) -> None:
    says(LOUD, BROWS)
    found = answered(clip, tiny, ByReader(replace(judges, sides=()), 2, 0.7))
    assert found.completion == LOUD
    assert "no claim can be judged: of the completions the first is shown" in found.notes


def test_a_reader_of_other_labels_says_so(tiny: Any, clip: Path, judges: Judges, says: Any) -> None:
    says(BROWS, BROWS)
    by = ByReader(replace(judges, reader=replace(judges.reader, labels=("calm", "angry"))), 2, 0.7)
    found = answered(clip, tiny, by)
    assert (found.prediction, UNKNOWN_LABELS in found.notes) == ("calm", True)


def test_samples_are_the_clips_own_and_a_cold_model_is_greedy(tiny: Any) -> None:
    first, second = noise_features(tiny.model.config, 2)
    short = {"max_new_tokens": 6}
    greedy = answer_batch(tiny, [first, second], 6)
    cold = sample_answers(tiny, second, 3, temperature=1e-4, **short)
    assert {found.completion for found in cold} == {greedy[1].completion}
    warm = sample_answers(tiny, first, 6, temperature=5.0, **short)
    assert len({found.completion for found in warm}) > 1
    assert sample_answers(tiny, first, 6, temperature=5.0, **short) == warm
    assert torch.isfinite(torch.tensor([found.logprob for found in warm])).all()


def test_the_waveform_is_read_for_the_judges_alone(tiny: Any, clip: Path, judges: Judges) -> None:
    assert read_file(clip, tiny.preparation).waveform is None
    heard = read_and_hear(clip, tiny.preparation, LIMITS.max_pixels)
    assert heard.waveform is not None and heard.waveform.shape == (16 * 1024,)  # AAC frames
    assert ByReader(judges, 1).read is read_file
    assert ByReader(judges, 2).read is read_and_hear


def test_a_server_answers_by_the_reader(tiny: Any, clip: Path, judges: Judges, says: Any) -> None:
    says(BROWS, LOUD)
    options = replace(DEFAULTS, max_new_tokens=2, batch_size=2)
    first, second = Service(tiny, options, ByReader(judges, 2, 0.7)).answer([clip, clip])
    assert isinstance(first, Answer) and first == second
    assert (first.prediction, first.samples) == ("happy", 2)


def test_a_server_whose_reader_has_no_judges_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judges: Judges
) -> None:
    asks = DEFAULTS.serve.model_copy(update={"answer": "reader", "samples": 4})
    monkeypatch.setenv("R1OMNI_JUDGES", str(tmp_path / "nowhere"))
    assert reader_of(DEFAULTS) is None
    with pytest.raises(ValueError, match=r"serve.answer: reader: .*nowhere: no such folder"):
        reader_of(replace(DEFAULTS, serve=asks))
    (tmp_path / "nowhere").mkdir()
    write_reader(judges.reader, tmp_path / "nowhere" / "reader.json")
    with pytest.raises(ValueError, match=r"face.json: expected a judge"):
        reader_of(replace(DEFAULTS, serve=asks))


def test_the_command_refuses_samples_that_nobody_reads(clip: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(clip), "--samples", "2"])
    assert done.exit_code == 2 and "--answer reader" in done.output
    for wrong in (
        ["--answer", "reader", "--explain"],
        ["--temperature", "2"],
        ["--judges", "elsewhere"],
    ):
        done = CliRunner().invoke(app, ["predict", str(clip), *wrong])
        assert done.exit_code == 2 and wrong[0].strip("-") in done.output
    folder = ["--judges", str(tmp_path / "nowhere")]
    done = CliRunner().invoke(app, ["predict", str(clip), "--answer", "reader", *folder])
    assert "no such folder" in done.output + str(done.exception)
    asks = ["predict", str(clip), "--answer", "reader", "--samples", "2", *folder]
    done = CliRunner().invoke(app, asks)
    assert done.exit_code != 0
    assert "no such folder" in done.output + str(done.exception)
