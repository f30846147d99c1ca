"""The audit's files: read back as written, and refused with file and key."""

import json
from pathlib import Path

import pandas as pd
import pytest

from r1omni.evaluation.audit_results import (
    AuditedClaim,
    AuditedClip,
    AuditResults,
    Measured,
    read_audit,
    read_audited_clips,
    write_audit,
    write_audited_clips,
)

SHARE = Measured(value=0.52, low=0.5, high=0.53, n=480)
RESULTS = AuditResults(
    model="grpo", mode="reasoned", corpora={"all": {"shapley.audio_share": SHARE}}
)
CLIP = AuditedClip(
    "dfew/1", "dfew", "fear", "fear", "A loud voice.", 0.5, 1.25,
    claims=(AuditedClaim("voice", "loudness", 1, 2, 6, p=0.9, certainty=0.7, weight=0.4),),
)  # fmt: skip


def test_an_audit_reads_back_as_written(tmp_path: Path):
    write_audit(RESULTS, tmp_path / "grpo.json")
    found = read_audit(tmp_path / "grpo.json")
    assert found == RESULTS
    assert found.find("shapley.audio_share") == SHARE
    assert found.find("shapley.audio_share", "dfew") is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"value": None}, "value: Input should be a valid number"),
        ({"low": None}, "low and high must both be numbers"),
        ({"low": 0.9}, "low 0.9 is above high 0.53"),
        ({"n": -1}, "n is -1"),
        ({"std": 1.0}, "std: Extra inputs are not permitted"),
    ],
)
def test_a_bad_number_is_named_with_its_file_and_key(tmp_path: Path, changed: dict, said: str):
    tree = RESULTS.model_dump()
    tree["corpora"]["all"]["shapley.audio_share"] |= changed
    (tmp_path / "grpo.json").write_text(json.dumps(tree))
    with pytest.raises(
        ValueError, match=r"grpo\.json: corpora\.all\.shapley\.audio_share"
    ) as error:
        read_audit(tmp_path / "grpo.json")
    assert said in str(error.value)


def test_what_is_no_audit_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        read_audit(tmp_path / "none.json")
    (tmp_path / "nan.json").write_text('{"model": NaN')
    with pytest.raises(ValueError, match=r"nan\.json: "):
        read_audit(tmp_path / "nan.json")


def test_clips_read_back_as_written_in_order(tmp_path: Path):
    direct = AuditedClip("dfew/0", "dfew", "sad", None)
    write_audited_clips([CLIP, direct], tmp_path / "grpo.parquet")
    assert read_audited_clips(tmp_path / "grpo.parquet") == [direct, CLIP]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("claims", "[{]", "row 0: claims: Invalid JSON"),
        ("claims", '[{"side": "nose"}]', r"row 0: claims: 0\.side"),
        ("rationale", "A", "row 0: claims: 2 to 6 is no part of a rationale of 1"),
        ("phi_audio", "much", "row 0: phi_audio is 'much'"),
        ("label", None, "row 0: label must not be empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, column: str, value: object, said: str):
    path = tmp_path / "grpo.parquet"
    write_audited_clips([CLIP], path)
    table = pd.read_parquet(path)
    table[column] = pd.Series([value], dtype=object)
    table.to_parquet(path)
    with pytest.raises(ValueError, match=rf"grpo\.parquet: {said}"):
        read_audited_clips(path)


def test_a_table_without_clips_is_refused(tmp_path: Path):
    path = tmp_path / "grpo.parquet"
    pd.DataFrame({"clip_id": ["dfew/1"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"missing columns \['corpus', 'label'\]"):
        read_audited_clips(path)
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match="not a parquet file"):
        read_audited_clips(path)
