"""The seeds table: bold only where both intervals exclude 0; the page keeps its text."""

import json
from pathlib import Path

import pytest

from benchmarks import seeds
from benchmarks.seeds import BEGIN, END, between_markers, gain, render

GAIN = {
    "war": 0.05, "war_ci": [0.01, 0.09], "war_half_width": 0.04,
    "uar": 0.06, "uar_ci": [0.01, 0.11], "uar_half_width": 0.05,
}  # fmt: skip


def row(war: float) -> dict:
    metrics = {
        "war": war,
        "uar": war,
        "war_ci": [war - 0.04, war + 0.04],
        "gain_over": dict.fromkeys(("base", "cold_start", "label_sft"), GAIN),
        "follows_scene": {"share": 0.25, "n": 4},
        "rationale_truth": {"face": 0.5, "voice": None},
    }
    return dict.fromkeys(
        ("base", "cold_start", "label_sft", "grpo"),
        dict.fromkeys(("dfew", "mafw", "ravdess"), metrics),
    )


def test_a_gain_is_bold_only_where_both_intervals_exclude_0():
    assert gain(GAIN) == "**+5.0 ± 4.0 / +6.0 ± 5.0**"
    # An interval that lies unevenly around its gain: beyond its half-width, and yet around 0.
    assert gain({**GAIN, "uar_ci": [-0.01, 0.09]}) == "+5.0 ± 4.0 / +6.0 ± 5.0"


def test_a_loss_is_bold_and_marked():
    lost = {
        "war": -0.05, "war_ci": [-0.09, -0.01], "war_half_width": 0.04,
        "uar": -0.06, "uar_ci": [-0.11, -0.01], "uar_half_width": 0.05,
    }  # fmt: skip
    assert gain(lost) == "**-5.0 ± 4.0 / -6.0 ± 5.0** ▼"


def test_the_kept_rows_are_readable_and_a_gain_without_intervals_is_never_bold():
    kept = json.loads((Path(seeds.__file__).parent / "seeds.json").read_text())
    table = render(kept, [0.0, 0.5, 0.9], [1, 2, 3])
    assert "Not run" not in table
    assert gain({k: v for k, v in GAIN.items() if not k.endswith("_ci")}) == (
        "+5.0 ± 4.0 / +6.0 ± 5.0"
    )


def test_means_and_spread_are_over_the_seeds_and_absent_rows_are_named():
    table = render({"0.5/1": row(0.5), "0.5/2": row(0.7)}, [0.5], [1, 2, 3])
    assert "Not run: 0.5/3." in table
    assert "| 0.5 | 2 | grpo | 60.0 (sd 14.1) / 60.0 |" in table  # sqrt(2) * 10
    assert table.count("| 25 | 50 |  |") == 4


def test_only_what_stands_between_the_markers_is_replaced():
    assert between_markers(f"a {BEGIN}\nold{END} b", "new\n") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(ValueError, match="expected the markers"):
        between_markers("no markers", "new")
