"""The table of two commits' steps, by hand."""

from benchmarks.two_checkouts import render


def test_medians_and_ratios_of_both_commits():
    before = {"textbook": [60.0, 70.0], "fast": [10.0, 12.0, 8.0], "fast, cached features": [5.0],
              "fast, text only": [4.0], "TRL, text only": [40.0]}  # fmt: skip
    after = {**before, "textbook": [65.0], "fast": [9.5], "fast, cached features": [5.0, 5.4]}
    text = render((before, after), ("aaaaaaa", "bbbbbbb"), {"cpu": "a CPU"})
    assert "| step | n | aaaaaaa | bbbbbbb | after / before |" in text
    assert "| fast | 1 | 10.00 | 9.50 | 0.950 |" in text
    assert "| fast, cached features | 2 | 5.00 | 5.20 | 1.040 |" in text
    assert "| textbook over fast | 6.50 | 6.84 | 1.053 |" in text  # 65 / 10, 65 / 9.5
    assert "| TRL, text only over fast, text only | 10.00 | 10.00 | 1.000 |" in text
