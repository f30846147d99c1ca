"""`evaluate`: one checkpoint on one corpus in one command, and what it refuses to measure."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from clip_files import write_clip
from known_labels import LABELS
from media_cases import damage_packet, write_media
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from benchmarks.original_layout import write_original
from r1omni.cli import app
from r1omni.config import PredictParams
from r1omni.corpora.clip import Clip, write_manifest
from r1omni.corpora.sets import Member
from r1omni.evaluation import evaluate as evaluation
from r1omni.evaluation.evaluate import wilson_interval
from r1omni.evaluation.predict import run_predict
from r1omni.evaluation.predictions import read_metadata, read_predictions
from r1omni.evaluation.report.table1 import render_table1_markdown, render_table1_text
from r1omni.evaluation.results import read_metrics
from r1omni.evaluation.seen_clips import refuse_training_clips
from r1omni.inference.loading import find_checkpoint, load_checkpoint
from r1omni.model.features import run_features


@pytest.fixture
def checkpoint(tiny, tmp_path) -> Path:
    model, processor = tiny.model, tiny.processor
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def ravdess_files(tmp_path_factory) -> Path:
    """Eight clips, one per emotion, one more without sound, and one that is a song."""
    folder = tmp_path_factory.mktemp("clips") / "ravdess/Actor_01"
    folder.mkdir(parents=True)
    for emotion in range(1, 9):
        write_clip(folder / f"01-01-{emotion:02}-01-01-01-01.mp4", seed=emotion)
    write_clip(folder / "01-01-03-02-01-01-01.mp4", audio=None)
    write_clip(folder / "01-02-03-01-01-01-01.mp4")
    return folder.parent


@pytest.fixture
def ravdess(ravdess_files, tmp_path) -> Path:
    """The test's own copy of them."""
    return shutil.copytree(ravdess_files, tmp_path / "ravdess")


def record(checkpoint: Path, provenance: dict) -> None:
    (checkpoint / "provenance.json").write_text(json.dumps(provenance))


def evaluate(repo: Path, *arguments: object):
    command = ["evaluate", *map(str, arguments), "--params", str(repo / "params.yaml")]
    return CliRunner().invoke(app, command)


def test_silence_long_sound_and_lost_packets_are_counted(checkpoint, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "ravdess/Actor_01"
    folder.mkdir(parents=True)
    name = "01-01-0{}-01-01-01-01.mp4"
    write_media(folder / name.format(3), silent=True)
    write_media(folder / name.format(4), seconds=3.0)
    damage_packet(folder / name.format(5), write_media(tmp_path / "whole.mp4"), [40])
    done = evaluate(repo, "--model", checkpoint, "--corpus", "ravdess", "--root", folder.parent)
    assert done.exit_code == 0, (done.output, done.exception)
    out = tmp_path / "data/evaluations/tiny-ravdess"
    metrics = json.loads((out / "metrics.json").read_text())["tiny"]["ravdess"]
    assert (metrics["silent"], metrics["digital_silence"], metrics["cut"]) == (0, 1, 1)
    assert "(1 clips whose sound is digital silence)" in done.output
    assert "(1 clips cut: the model heard the first 2 s of sound)" in done.output
    assert "(1 clips with packets of sound that could not be decoded" in done.output
    manifest = pd.read_parquet(out / "manifest.parquet")
    assert manifest.digital_silence.tolist() == [True, False, False]
    assert manifest.audio_duration.round(1).tolist() == [2.0, 3.0, 2.0]
    assert manifest.lost_packets.tolist() == [0, 0, 1]


def test_a_clip_that_features_cannot_decode_is_counted_wherever_n_is(
    checkpoint, ravdess, repo, tmp_path, monkeypatch
):
    """It is damaged after the ingestion; ten clips, so that one is no more than a tenth."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        write_clip(ravdess / f"Actor_01/01-01-03-01-0{number}-02-01.mp4", seed=20 + number)
    damaged = ravdess / "Actor_01/01-01-05-01-01-01-01.mp4"

    def after_the_damage(*arguments, **more):
        damaged.unlink()
        damaged.write_bytes(b"rubbish")
        run_features(*arguments, **more)

    monkeypatch.setattr(evaluation, "run_features", after_the_damage)
    done = evaluate(repo, "--model", checkpoint, "--corpus", "ravdess", "--root", ravdess)
    assert done.exit_code == 0, (done.output, done.exception)
    out = tmp_path / "data/evaluations/tiny-ravdess"
    rows = read_predictions(out / "predictions.parquet")
    assert len(rows) == 9 and not any("01-01-05" in row.clip_id for row in rows)
    assert read_metadata(out / "predictions.parquet").undecoded == {"ravdess": 1}
    measured = read_metrics(out / "metrics.json")["tiny"]["ravdess"]
    assert (measured.n, measured.undecoded, sum(map(sum, measured.confusion.counts))) == (9, 1, 9)
    assert "(1 clips could not be decoded for features: they are left out of n)" in done.stdout
    told = "Left out of n, as they could not be decoded: RAVDESS 1."
    for table in (render_table1_text, render_table1_markdown):
        assert told in table({"base": {"ravdess": measured}})
        assert told[:10] not in table({"base": {"ravdess": measured.model_copy(
            update={"undecoded": 0})}})  # fmt: skip

    manifest, folder = out / "manifest.parquet", out / "features/tiny-ravdess"
    run_predict(
        checkpoint, [Member("ravdess", manifest, folder, LABELS["ravdess"], "")],
        tmp_path / "again.parquet",
        predict=PredictParams(max_new_tokens=2),
        batch_size=4,
    )  # fmt: skip
    assert read_metadata(tmp_path / "again.parquet").undecoded == {"ravdess": 1}


def test_one_command_measures_a_checkpoint_on_a_corpus(
    checkpoint, ravdess, repo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = evaluate(repo, "--model", checkpoint, "--corpus", "ravdess", "--root", ravdess)
    assert done.exit_code == 0, (done.output, done.exception)
    out = tmp_path / "data/evaluations/tiny-ravdess"
    metrics = json.loads((out / "metrics.json").read_text())["tiny"]["ravdess"]
    assert metrics["n"] == 8
    assert metrics["calm"]["drop"]["n"] == 7
    rows = pd.read_parquet(out / "predictions.parquet")
    right = (rows.prediction == rows.label).fillna(False).mean()
    assert metrics["war"] == pytest.approx(float(right))
    assert "tiny on ravdess: n 8, 2 rows rejected, answers direct" in done.stdout
    for policy, n in (("keep", 8), ("merge", 8), ("drop", 7)):
        line = next(x for x in done.stdout.splitlines() if f"calm {policy}" in x)
        assert line.endswith(f"n {n}")
    assert "does not record what it was trained on" in done.stdout
    assert "the clips: real; the checkpoint: training data not recorded" in done.stdout
    assert metrics["data"] == "real"
    assert "rendered" not in done.stderr


CAUTION = (
    "this checkpoint was trained on rendered faces only (synthetic corpora, 1.0 M parameters): "
    "its answers about real clips mean nothing"
)


def test_a_checkpoint_of_rendered_faces_says_so_before_it_answers(
    checkpoint, ravdess, repo, tmp_path, monkeypatch
):
    """On standard error, once; what is on standard output stays JSON."""
    monkeypatch.chdir(tmp_path)
    record(checkpoint, RENDERED)
    mark = {"data": "synthetic", "shortcut": 0.5, "seed": 1}
    (ravdess / "SYNTHETIC.json").write_text(json.dumps(mark))
    done = evaluate(repo, "--model", checkpoint, "--corpus", "ravdess", "--root", ravdess)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stderr.splitlines().count(CAUTION) == 1
    line = next(x for x in done.stdout.splitlines() if "the clips:" in x)
    assert line.strip() == (
        "the clips: synthetic (rendered faces), shortcut 0.5, seed 1; the checkpoint: trained on "
        "synthetic corpora (rendered faces), 1.0 M parameters, seed 7"
    )
    clip = next(ravdess.rglob("*.mp4"))
    command = ["predict", clip, "--model", checkpoint, "--json", "--params", repo / "params.yaml"]
    said = CliRunner().invoke(app, [*map(str, command)])
    assert said.stderr.splitlines().count(CAUTION) == 1
    assert json.loads(said.stdout)["file"] == str(clip)


def test_another_mode_than_the_checkpoint_records_is_said_loudly_and_in_the_metrics(
    checkpoint, ravdess, repo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ("--model", checkpoint, "--corpus", "ravdess", "--root", ravdess)
    done = evaluate(repo, *arguments, "--mode", "reasoned")
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"WARNING: {checkpoint} records that it answers direct, and is asked reasoned" in (
        done.stderr
    )
    assert "asked reasoned, but the checkpoint records direct" in done.stdout
    assert "no answer has the form of mode reasoned, so none can be right" in done.stdout
    out = tmp_path / "data/evaluations/tiny-ravdess/metrics.json"
    metrics = json.loads(out.read_text())["tiny"]["ravdess"]
    assert (metrics["mode"], metrics["recorded_mode"], metrics["war"]) == ("reasoned", "direct", 0)


def test_an_original_checkpoint_is_measured_directly_once_the_mode_is_said(
    tiny, ravdess, repo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_original(tiny.model, tiny.processor, tmp_path / "R1-Omni-0.5B")
    arguments = ("--model", tmp_path / "R1-Omni-0.5B", "--corpus", "ravdess", "--root", ravdess)
    refused = evaluate(repo, *arguments)
    assert isinstance(refused.exception, ValueError)
    assert "pass --mode reasoned (EMER-SFT, R1-Omni)" in str(refused.exception)
    done = evaluate(repo, *arguments, "--mode", "reasoned")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "R1-Omni-0.5B on ravdess: n 8, 2 rows rejected, answers reasoned" in done.stdout


def test_a_surplus_tensor_is_refused_by_name_until_it_is_allowed(
    tiny, ravdess, repo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "R1-Omni-0.5B"
    write_original(tiny.model, tiny.processor, checkpoint)
    weights, surplus = checkpoint / "model.safetensors", "model.vision_resampler.weight"
    save_file(load_file(weights) | {surplus: torch.zeros(3)}, weights)
    said = ("--model", checkpoint, "--mode", "reasoned")
    arguments = (*said, "--corpus", "ravdess", "--root", ravdess)
    refused = evaluate(repo, *arguments)
    assert isinstance(refused.exception, ValueError)
    assert f"unexpected tensor: {surplus} in model.safetensors" in str(refused.exception)
    assert not (tmp_path / "data").exists()
    done = evaluate(repo, *arguments, "--allow", surplus)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "R1-Omni-0.5B on ravdess: n 8, 2 rows rejected, answers reasoned" in done.stdout
    n = len(tiny.model.state_dict()) - 1  # the tied head
    account = f"{n} tensors used, 1 unused, 0 missing, 0 unexpected, 0 reshaped"
    assert account in done.stderr
    assert "unused: 1 x model.vision_resampler (allowed by name)" in done.stderr
    assert account not in done.stdout
    assert not list((tmp_path / "data/evaluations/R1-Omni-0.5B-ravdess").glob("checkpoint*"))

    clip = next(ravdess.rglob("*.mp4"))
    command = ["predict", clip, *said, "--params", repo / "params.yaml", "--json"]
    refused = CliRunner().invoke(app, [*map(str, command)])
    assert surplus in str(refused.exception)
    done = CliRunner().invoke(app, [*map(str, command), "--allow", surplus])
    assert done.exit_code == 0, (done.output, done.exception)
    assert account in done.stderr
    assert json.loads(done.stdout)["file"] == str(clip)


RENDERED = {
    "stage": "grpo", "mode": "direct", "seed": 7,
    "data": {"dfew": {"data": "synthetic", "shortcut": 0.5, "seed": 1}},
    "parameters": {"total": 1_034_567, "language_model": 700_000},
}  # fmt: skip
FOLD_1 = {"stage": "grpo", "fold": 1, "trained_on": {"dfew": 100, "mafw": 90}}


def test_another_fold_than_the_checkpoints_is_refused_before_anything_is_read(
    checkpoint, repo, tmp_path
):
    record(checkpoint, {"stage": "late", "fold": None, "trained_on": {}, "parent": FOLD_1})
    done = evaluate(
        repo, "--model", checkpoint, "--corpus", "dfew", "--fold", 2, "--root", tmp_path / "none"
    )
    assert isinstance(done.exception, ValueError)
    assert "was trained on fold 1 of dfew" in str(done.exception)
    assert "evaluate it on fold 1" in str(done.exception)


@pytest.mark.parametrize("fold", [0, 7])
def test_a_fold_that_there_is_not_is_said_first(checkpoint, repo, tmp_path, fold):
    record(checkpoint, FOLD_1)
    arguments = ("--model", checkpoint, "--corpus", "dfew", "--fold", fold, "--root", tmp_path)
    done = evaluate(repo, *arguments)
    assert done.exit_code == 1
    assert f"there is no fold {fold} of dfew: 1 to 5" in str(done.exception)


def clip(corpus: str, fold: int | None) -> Clip:
    return Clip("x/1", corpus, "1.mp4", "sad", "test", fold, None, None, 1.0, 8.0, 8, True, "0")


def test_the_checkpoints_own_test_clips_and_corpora_it_never_saw_may_be_evaluated(checkpoint):
    record(checkpoint, FOLD_1)
    refuse_training_clips(checkpoint, [clip("dfew", 1), clip("mafw", 1), clip("ravdess", None)])
    with pytest.raises(ValueError, match="fold 1 of mafw, so test clips of fold 3"):
        refuse_training_clips(checkpoint, [clip("dfew", 1), clip("mafw", 3)])


def member(corpus: str, manifest: Path) -> Member:
    return Member(corpus, manifest, manifest.with_suffix(""), LABELS[corpus], "")


def test_a_table_may_test_a_checkpoint_that_learned_from_its_train_clips(checkpoint):
    record(checkpoint, FOLD_1 | {"trained_on": {"dfew": 100, "mine": 9}})
    refuse_training_clips(checkpoint, [clip("mine", None)], divided={"mine"})
    with pytest.raises(ValueError, match="was trained on fold 1 of mine"):
        refuse_training_clips(checkpoint, [clip("mine", None)])


def test_the_predict_stage_refuses_training_clips_too(checkpoint, tmp_path):
    record(checkpoint, FOLD_1)
    write_manifest([clip("dfew", 2)], tmp_path / "m.parquet")
    with pytest.raises(ValueError, match="was trained on fold 1 of dfew"):
        run_predict(
            checkpoint, [member("dfew", tmp_path / "m.parquet")], tmp_path / "p.parquet",
            predict=PredictParams(max_new_tokens=1),
            batch_size=1,
        )  # fmt: skip


def test_a_label_that_the_corpus_does_not_have_is_refused_by_name(checkpoint, tmp_path):
    write_manifest([replace(clip("dfew", 1), label="helpless")], tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"m\.parquet: clip 'x/1' has the label 'helpless'; known"):
        run_predict(
            checkpoint, [member("dfew", tmp_path / "m.parquet")], tmp_path / "p.parquet",
            predict=PredictParams(max_new_tokens=1),
            batch_size=1,
        )  # fmt: skip


def test_a_corpus_without_single_labels_is_refused_at_once(checkpoint, repo, tmp_path):
    arguments = ("--model", checkpoint, "--corpus", "mafw_compound", "--root", tmp_path)
    done = evaluate(repo, *arguments)
    assert "mafw_compound cannot be evaluated: clips of MAFW compound may have several" in str(
        done.exception
    )


def test_what_is_no_checkpoint_is_refused_by_name(params, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder.*models:/NAME@ALIAS"):
        find_checkpoint(str(tmp_path / "nowhere"), params.tracking)
    shutil.rmtree(tmp_path / "empty", ignore_errors=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty/config\.json: cannot be read"):
        load_checkpoint(tmp_path / "empty")


def test_wilsons_interval_of_a_share():
    low, high = wilson_interval(0.5, 10, 0.95)  # Wilson 1927; R's prop.test(5, 10, correct = F)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    low, high = wilson_interval(1.0, 100, 0.95)
    assert round(low, 4) == 0.963
    assert high == 1.0


def test_the_folds_of_all_ancestors_count(tmp_path):
    parent = {"fold": 2, "trained_on": {"dfew": 9}, "parent": None}
    record(tmp_path, {"fold": 1, "trained_on": {"dfew": 9}, "parent": parent})
    for fold in (1, 2, 3):
        with pytest.raises(ValueError, match=r"trained on fold 1 and 2 of dfew, so test clips"):
            refuse_training_clips(tmp_path, [clip("dfew", fold)])
