"""The predictions table."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_completions import HONEST, MALFORMED, NO_KNOWN_LABEL
from known_labels import ABOUT
from made_up_run import make_row

from r1omni.evaluation.predictions import read_predictions, write_predictions
from r1omni.judging import judge

GOOD = "<think>lips curl up</think>\n<answer>Joy.</answer>"


def test_rows_survive_the_file(tmp_path: Path):
    rows = [
        make_row(GOOD),
        make_row("Happy", clip_id="dfew/2", mode="direct", model="base"),
        make_row("?", corpus="ravdess", clip_id="ravdess/1", fold=None, label="calm"),
    ]
    write_predictions(rows, tmp_path / "rows.parquet", ABOUT)
    assert read_predictions(tmp_path / "rows.parquet") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_reasoned_completion_is_judged_by_the_parser_and_the_vocabulary():
    judged = judge(GOOD, "reasoned")
    assert (judged.rationale, judged.answer, judged.prediction) == ("lips curl up", "Joy.", "happy")
    assert judged.well_formed


def test_a_direct_completion_is_its_own_answer():
    judged = judge(" Happiness. ", "direct")
    assert (judged.rationale, judged.prediction, judged.well_formed) == (None, "happy", True)
    assert judge(GOOD, "direct").prediction is None
    assert not judge("happy, sad", "direct").well_formed
    assert judge(" ", "direct").answer is None


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_completions_predict_nothing(text: str):
    judged = judge(text, "reasoned")
    assert (judged.rationale, judged.answer, judged.prediction) == (None, None, None)
    assert not judged.well_formed


@pytest.mark.parametrize("text", NO_KNOWN_LABEL.values(), ids=NO_KNOWN_LABEL)
def test_answers_that_are_not_one_known_label_predict_nothing(text: str):
    judged = judge(text, "reasoned")
    assert judged.well_formed
    assert judged.prediction is None
    assert judge(text, "direct").prediction is None


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST)
def test_honest_completions_predict_happy(text: str):
    assert judge(text, "reasoned").prediction == "happy"


def test_the_raw_completion_is_judged_anew_whatever_stands_beside_it(tmp_path: Path):
    write_predictions(
        [make_row(GOOD, prediction="sad", answer="sad")], tmp_path / "a.parquet", ABOUT
    )
    (row,) = read_predictions(tmp_path / "a.parquet")
    assert (row.prediction, row.answer, row.right) == ("happy", "Joy.", True)


def test_a_missing_column_is_named_with_the_file(tmp_path: Path):
    path = tmp_path / "a.parquet"
    write_predictions([make_row(GOOD)], path, ABOUT)
    pd.read_parquet(path).drop(columns=["completion", "mode"]).to_parquet(path)
    with pytest.raises(ValueError, match=r"a\.parquet: missing columns \['mode', 'completion'\]"):
        read_predictions(path)


def test_a_file_that_is_missing_or_no_table_is_named(tmp_path: Path):
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match=r"a\.parquet: no such file; expected a predictions table"):
        read_predictions(path)
    path.write_text("model,clip_id\ngrpo,dfew/1\n")
    expected = r"a\.parquet: not a parquet file; expected a predictions table: "
    with pytest.raises(ValueError, match=expected):
        read_predictions(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "calm", r"a\.parquet: row 1: unknown label 'calm' for dfew; known: neutral, "),
        ("corpus", "afew", r"row 1: the labels of 'afew' are not noted; noted: \['dfew'"),
        ("mode", "sung", r"row 1: mode 'sung' is neither"),
        ("completion", None, r"row 1: completion must not be empty"),
        ("clip_id", "dfew/1", r"clip 'dfew/1' has two rows of model 'grpo'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, column, value, message):
    path = tmp_path / "a.parquet"
    write_predictions([make_row(GOOD), make_row(GOOD, clip_id="dfew/2")], path, ABOUT)
    table, note = pd.read_parquet(path), pq.read_schema(path).metadata
    table.loc[1, column] = value
    pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata(note), path)
    with pytest.raises(ValueError, match=message):
        read_predictions(path)
