"""Settings are judged by clips that the tried training does not see, and by nothing else."""

import pandas as pd
import pytest

from benchmarks import settings
from r1omni.corpora.clip import read_manifest


def table_of(clips: int) -> pd.DataFrame:
    """`clips` training clips and as many test clips, in a manifest's columns."""
    rows = [
        {
            "clip_id": f"dfew/{i}", "corpus": "dfew", "path": f"{i}.mp4", "label": "happy",
            "split": "train" if i < clips else "test", "fold": 1, "subject": None,
            "rationale": None, "duration": 1.0, "fps": 8.0, "n_frames": 8, "has_audio": True,
            "sha256": str(i),
        }
        for i in range(2 * clips)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_what_is_held_out_is_trained_on_by_nobody_and_no_test_clip_is_read(tmp_path, monkeypatch):
    (tmp_path / "manifests").mkdir()
    table_of(10).to_parquet(tmp_path / "manifests/dfew.parquet", index=False)
    monkeypatch.setattr(settings, "DATA", tmp_path)
    monkeypatch.setattr(settings, "HELD", 3)
    clips = read_manifest(settings.hold_out("dfew", tmp_path))
    splits = {clip.clip_id: clip.split for clip in clips}
    assert set(splits) == {f"dfew/{i}" for i in range(10)}
    assert sorted(splits.values()) == ["test"] * 3 + ["train"] * 7


def test_a_try_changes_what_it_names_and_an_unknown_key_is_refused():
    tried = {"label_sft": settings.values_of(["lr=5e-4", "balance=0.5", "epochs=2"])}
    assert tried == {"label_sft": {"lr": 0.0005, "balance": 0.5, "epochs": 2}}
    params = settings.params_with(tried)
    assert (params.label_sft.lr, params.label_sft.epochs) == (0.0005, 2)
    assert (params.held_out.clips, params.machine.processes) == (0, 1)
    with pytest.raises(SystemExit, match=r"params\.yaml has no grpo\.lrr"):
        settings.params_with({"grpo": {"lrr": 1.0}})


def test_rows_stand_under_the_stage_that_was_judged():
    rates = {"dfew": {"war": 70.0, "uar": 60.0}, "mafw": {"war": 50.0, "uar": 41.0}}
    rows = [
        {"tried": {"label_sft": {"lr": 0.001}}, **rates},
        {"tried": {"cold_start": {"epochs": 9}, "grpo": {"seed": 2}}, **rates},
    ]
    _, label_sft, _, grpo = settings.render(rows).split("## ")
    assert "| lr 0.001 | 70.0 / 60.0 | 50.0 / 41.0 | 55.2 |" in label_sft
    assert "| cold_start: epochs 9; grpo: seed 2 | 70.0 / 60.0 | 50.0 / 41.0 | 55.2 |" in grpo
