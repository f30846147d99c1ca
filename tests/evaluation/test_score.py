"""The score stage: predictions to metrics.json."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from known_labels import ABOUT, LABELS
from made_up_run import SCORE, Run, make_row

from r1omni.completions import render
from r1omni.evaluation.predictions import TableMetadata, read_metadata, write_predictions
from r1omni.evaluation.results import read_metrics
from r1omni.evaluation.score import run_score
from r1omni.lineage import Lineage


def score(predictions: list[Path], folder: Path, truth: list[Path] | None = None) -> dict:
    run_score(predictions, truth or [], folder / "metrics.json", folder / "plots", score=SCORE)
    return json.loads((folder / "metrics.json").read_text())


def write(path: Path, answers: list[tuple[str, str]], **changes) -> Path:
    corpus = changes.get("corpus", "dfew")
    rows = [
        make_row(render("a", said), label, **{"clip_id": f"{corpus}/{i}", **changes})
        for i, (label, said) in enumerate(answers)
    ]
    write_predictions(rows, path, ABOUT)
    return path


def test_numbers_by_hand(tmp_path: Path):
    answers = [
        ("happy", "joy"),
        ("happy", "sad"),
        ("sad", "Sad."),
        ("fear", "ecstatic"),
        ("sad", "calm"),
    ]
    found = score([write(tmp_path / "grpo.parquet", answers)], tmp_path)["grpo"]["dfew"]
    assert found["war"] == 2 / 5
    assert found["uar"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["recall"] == {"fear": 0.0, "happy": 0.5, "sad": 0.5}
    assert (found["n"], found["fold"], found["format_rate"]) == (5, 1, 1.0)
    assert found["protocol"] == "open vocabulary, after normalisation"
    assert found["confusion"]["columns"][-1] == "none"
    sad = found["confusion"]["rows"].index("sad")
    assert found["confusion"]["counts"][sad] == [0, 0, 1, 0, 0, 0, 0, 1]  # calm is no DFEW class
    assert found["war_ci"][0] <= found["war"] <= found["war_ci"][1]
    assert "calm" not in found
    assert "rationale_truth" not in found


def test_ravdess_keeps_calm_and_reports_all_three_policies(tmp_path: Path):
    answers = [("calm", "neutral"), ("calm", "calm"), ("neutral", "calm"), ("happy", "happy")]
    path = write(tmp_path / "a.parquet", answers, corpus="ravdess", fold=None)
    found = score([path], tmp_path)["grpo"]["ravdess"]
    assert (found["war"], found["calm_policy"], found["fold"]) == (0.5, "keep", None)
    assert {policy: (c["war"], c["n"]) for policy, c in found["calm"].items()} == {
        "keep": (0.5, 4), "merge": (1.0, 4), "drop": (0.5, 2),
    }  # fmt: skip
    assert found["calm"]["keep"]["war_ci"] == found["war_ci"]


def test_the_format_rate_counts_well_formed_completions(tmp_path: Path):
    rows = [
        make_row(render("a", "ecstatic")),
        make_row("happy", clip_id="dfew/2"),
        make_row("happy", model="base", mode="direct"),
        make_row("happy!", model="base", mode="direct", clip_id="dfew/2"),
        make_row("I think happy", model="base", mode="direct", clip_id="dfew/3", finished=False),
    ]
    write_predictions(rows, tmp_path / "a.parquet", ABOUT)
    found = score([tmp_path / "a.parquet"], tmp_path)
    assert found["grpo"]["dfew"]["format_rate"] == 0.5
    assert found["base"]["dfew"]["format_rate"] == 2 / 3
    assert found["base"]["dfew"]["finished_rate"] == 2 / 3
    assert found["base"]["dfew"]["mode"] == "direct"


def test_gains_are_measured_on_the_same_clips_only(tmp_path: Path):
    before = write(tmp_path / "a.parquet", [("happy", "sad")] * 9, model="cold_start")
    after = write(tmp_path / "b.parquet", [("happy", "happy")] * 9)
    gain = score([before, after], tmp_path)["grpo"]["dfew"]["gain_over"]["cold_start"]
    assert (gain["war"], gain["war_half_width"]) == (1.0, 0.0)
    other = write(tmp_path / "a.parquet", [("happy", "sad")] * 8, model="cold_start")
    assert score([other, after], tmp_path)["grpo"]["dfew"]["gain_over"] == {}


def test_a_whole_run_has_every_number_and_reads_back(tmp_path: Path, run: Run):
    found = score(run.predictions, tmp_path, run.truth)
    assert {m: sorted(c) for m, c in found.items()} == {
        m: ["dfew", "mafw", "ravdess"] for m in ("base", "cold_start", "grpo", "label_sft")
    }
    grpo, base = found["grpo"]["mafw"], found["base"]["mafw"]
    assert grpo["n"] == 110
    assert sum(map(sum, grpo["confusion"]["counts"])) == 110
    assert 0.6 < grpo["rationale_truth"]["face"] < 1
    assert "rationale_truth" not in base
    assert 0 <= base["follows_scene"]["share"] < 0.5
    assert read_metrics(tmp_path / "metrics.json")["grpo"]["mafw"].war == grpo["war"]


def test_metrics_say_what_they_are_about(tmp_path: Path, run: Run):
    entry = score(run.predictions, tmp_path)["grpo"]["ravdess"]
    kept = {key: entry[key] for key in ("data", "shortcut", "data_seed", "trained_on", "seed")}
    assert kept == {
        "data": "synthetic", "shortcut": 0.0, "data_seed": 1, "trained_on": "synthetic", "seed": 1,
    }  # fmt: skip
    assert entry["parameters"] == 1_034_567
    assert (entry["code"], entry["params_hash"]) == ("c0dec0dec0de", "5a5a5a5a5a5a")
    assert "recorded_mode" not in entry


def test_predictions_that_note_their_labels_alone_are_of_unknown_origin(tmp_path: Path):
    write_predictions([make_row(render("a", "happy"))], tmp_path / "a.parquet", ABOUT)
    entry = score([tmp_path / "a.parquet"], tmp_path)["grpo"]["dfew"]
    assert (entry["data"], entry["trained_on"]) == ("unknown", "unknown")
    assert "parameters" not in entry
    pd.read_parquet(tmp_path / "a.parquet").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: row 0: the labels of 'dfew' are not noted"):
        score([tmp_path / "b.parquet"], tmp_path)


def test_a_mode_that_the_checkpoint_does_not_record_stands_in_the_metrics(tmp_path: Path):
    about = TableMetadata({}, Lineage({}, mode="direct"), labels=LABELS)
    write_predictions([make_row("happy")], tmp_path / "a.parquet", about)
    entry = score([tmp_path / "a.parquet"], tmp_path)["grpo"]["dfew"]
    assert (entry["war"], entry["mode"], entry["recorded_mode"]) == (0.0, "reasoned", "direct")


@pytest.mark.parametrize(
    ("undecoded", "kept"), [(None, None), ({}, 0), ({"mafw": 3}, 0), ({"dfew": 2}, 2)]
)
def test_clips_that_could_not_be_decoded_stand_beside_n(tmp_path: Path, undecoded, kept):
    metadata = TableMetadata({}, None, undecoded, LABELS)
    write_predictions([make_row("?")], tmp_path / "a.parquet", metadata)
    assert read_metadata(tmp_path / "a.parquet").undecoded == undecoded
    entry = score([tmp_path / "a.parquet"], tmp_path)["grpo"]["dfew"]
    assert (entry["n"], entry["war"], entry.get("undecoded")) == (1, 0.0, kept)


def test_a_note_that_is_none_of_ours_is_named(tmp_path: Path):
    table = pa.table({"model": ["grpo"]}).replace_schema_metadata({b"r1omni": b"{}"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: the note in its metadata"):
        read_metadata(tmp_path / "a.parquet")


def test_scoring_twice_gives_the_same_bytes(tmp_path: Path, run: Run):
    score(run.predictions, tmp_path / "a", run.truth)
    score(run.predictions[::-1], tmp_path / "b", run.truth)
    one, two = ((tmp_path / side / "metrics.json").read_bytes() for side in "ab")
    assert one == two
    assert one.endswith(b"}\n")


def test_dvc_plots_hold_a_line_per_clip(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [("happy", "joy"), ("sad", "calm"), ("sad", "?")])
    score([path], tmp_path)
    text = (tmp_path / "plots/confusion-grpo-dfew.csv").read_text()
    assert text == "actual,predicted\nhappy,happy\nsad,none\nsad,none\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "train"}, r"a\.parquet: clip 'dfew/2' is not of the test split"),
        ({"fold": 2}, r"clip 'dfew/2' is of fold 2, others of dfew are of fold 1"),
    ],
)
def test_clips_that_do_not_belong_together_are_refused(tmp_path: Path, changes, message):
    rows = [make_row(render("a", "happy")), make_row("", clip_id="dfew/2", **changes)]
    write_predictions(rows, tmp_path / "a.parquet", ABOUT)
    with pytest.raises(ValueError, match=message):
        score([tmp_path / "a.parquet"], tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_model_in_two_files_is_refused(tmp_path: Path):
    one = write(tmp_path / "a.parquet", [("happy", "happy")])
    two = write(tmp_path / "b.parquet", [("happy", "happy")])
    with pytest.raises(ValueError, match=r"b\.parquet: model 'grpo' is in .*a\.parquet, too"):
        score([one, two], tmp_path)


def test_gains_from_before_intervals_were_kept_are_read_and_claim_nothing(tmp_path: Path, run: Run):
    tree = score(run.predictions, tmp_path, run.truth)
    assert set(tree["grpo"]["dfew"]["gain_over"]["cold_start"]) >= {"war_ci", "uar_ci"}
    for corpora in tree.values():
        for values in corpora.values():
            for gain in values["gain_over"].values():
                del gain["war_ci"], gain["uar_ci"]
    (tmp_path / "metrics.json").write_text(json.dumps(tree))
    gain = read_metrics(tmp_path / "metrics.json")["grpo"]["dfew"].gain_over["cold_start"]
    assert (gain.war_ci, gain.direction) == (None, None)
    assert gain.war_half_width > 0


def test_a_metrics_file_with_an_unknown_key_is_named(tmp_path: Path):
    score([write(tmp_path / "a.parquet", [("happy", "happy")])], tmp_path)
    path = tmp_path / "metrics.json"
    path.write_text(path.read_text().replace('"war":', '"wra":'))
    with pytest.raises(ValueError, match=r"metrics\.json: grpo\.dfew\."):
        read_metrics(path)


@pytest.mark.parametrize("module", ["score", "report.report", "report.table1"])
def test_judging_imports_neither_torch_nor_transformers(module: str):
    code = (
        f"import sys, r1omni.evaluation.{module}; "
        "sys.exit(bool({'torch', 'transformers', 'mlflow', 'decord'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_summary_holds_four_decimals_of_war_uar_and_format(tmp_path: Path):
    answers = [("happy", "happy"), ("happy", "sad"), ("sad", "sad")]
    predictions = write(tmp_path / "grpo.parquet", answers)
    summary = tmp_path / "summary.json"
    run_score([predictions], [], tmp_path / "m.json", tmp_path / "plots", summary, score=SCORE)
    assert json.loads(summary.read_text()) == {
        "grpo": {"dfew": {"format": 1.0, "uar": 0.75, "war": 0.6667}}
    }
