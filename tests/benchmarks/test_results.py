"""From measured rows to ratios and RESULTS.md."""

import json

from benchmarks.results import speed_section, summarise, write_results


def row(name, cpu, peak=100.0, warm=True, **more):
    parts = {"decode": cpu / 2}
    return {"name": name, "cpu": cpu, "wall": cpu, "peak_mib": peak, "warm": warm,
            "cpu_parts": parts, "loss": 0.5, "grad_norm": 1.0, **more}  # fmt: skip


ROWS = [
    row("textbook", 60.0, 4000.0),
    row("textbook", 90.0, 4200.0),
    row("textbook", 70.0, 4100.0),
    row("fast", 99.0, 1000.0, warm=False),  # cold: its memory counts, its time does not
    row("fast", 10.0, 300.0),
    row("fast, cached features", 8.0),
    {"name": "TRL, text only", "missing": "trl is not installed"},
    {
        "name": "matmul",
        "seconds_at_matmul_rate": 6.0,
        "seconds_at_large_matmul_rate": 6.0,
        "note": "why",
    },
]


def test_ratios_are_of_medians_of_warm_steps_and_of_first_peaks():
    ratios = summarise(ROWS)
    assert ratios["textbook_over_fast_cpu"] == 7.0
    assert ratios["textbook_over_fast_cpu_cached"] == 70.0 / 8.0
    assert ratios["textbook_over_fast_peak_memory"] == 4.1
    assert ratios["fraction_of_matmul_rate"] == 0.75


def test_what_was_not_measured_is_none_and_says_why(tmp_path):
    ratios = summarise(ROWS)
    assert ratios["trl_over_fast_cpu"] is None
    write_results(ratios, ROWS, {"cpu": "a processor"}, tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["trl_over_fast_cpu"] is None
    assert written["textbook_over_fast_cpu"] == 7.0
    assert len(written["rows"]) == len(ROWS)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| TRL, text only | 0 | trl is not installed |" in text
    assert "| textbook | 3 | 70.00 | 60.0, 90.0, 70.0 |" in text
    assert "matmul: why" in text


def test_the_rows_of_each_commit_are_dated():
    rows = [
        {"name": "matmul", "at": f"2026-01-02 03:0{minute}:00", "commit": commit}
        for minute, commit in ((5, "new"), (4, "old"), (9, "new"))
    ]
    text = "\n".join(speed_section({}, rows, {}))
    assert (
        "Measured: 2 rows at commit new, begun between 2026-01-02 03:05:00 and "
        "2026-01-02 03:09:00 UTC; 1 rows at commit old, begun between 2026-01-02 03:04:00 and "
        "2026-01-02 03:04:00 UTC." in text
    )


def test_of_several_notes_of_one_measurement_the_last_stands():
    rows = [{"name": "predict", "note": note} for note in ("1.1 s", "1.2 s")]
    text = "\n".join(speed_section({}, [*rows, {"name": "CUDA", "note": "none"}], {}))
    assert "predict (the last of 2): 1.2 s" in text
    assert "1.1 s" not in text
    assert "CUDA: none" in text


def test_sections_of_other_scripts_come_along(tmp_path, monkeypatch):
    from benchmarks import results

    monkeypatch.setattr(results, "SECTIONS", tmp_path)
    (tmp_path / "other.md").write_text("## Another measurement\n\n42\n")
    write_results(summarise([]), [], {}, tmp_path / "results.json")
    assert (tmp_path / "RESULTS.md").read_text().endswith("## Another measurement\n\n42\n")
