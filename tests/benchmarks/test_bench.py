"""The bench's measurements by their names."""

import json
import re
from types import SimpleNamespace

import pytest

from benchmarks import bench


@pytest.mark.parametrize("name", [name for name, _ in bench.the_rest()])
def test_each_measurement_of_the_rest_runs_alone_by_its_name(monkeypatch, tmp_path, name):
    ran = []
    monkeypatch.setattr(
        bench, "measure", lambda name, command, _: ran.append((name, command)) or []
    )
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    for what in ("rest", "full"):  # in `full`, none of the ways either
        ran.clear()
        monkeypatch.setattr("sys.argv", ["bench", what, "--add", "--only", name])
        bench.main()
        assert ran == [(name, dict(bench.the_rest())[name])]


def test_a_named_way_is_measured_once_a_round(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(bench, "measure", lambda name, command, _: ran.append(name) or [])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    command = ["bench", "full", "--rounds", "3", "--only", "G = 8", "G = 16"]
    monkeypatch.setattr("sys.argv", command)
    bench.main()
    assert ran == ["G = 8", "G = 16", "G = 16", "G = 8", "G = 8", "G = 16"]


def test_what_is_not_measured_anew_stays_if_this_machine_measured_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "measure", lambda name, *_: [{"name": name, "cpu": 2.0}])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr("sys.argv", ["bench", "quick", "--rounds", "1"])
    earlier = [{"name": "G = 8", "cpu": 1.0}, {"name": "fast", "cpu": 1.0}]
    for machine, kept in ((bench.machine(), [1.0]), ({"cpu": "another"}, [])):
        bench.RESULTS.write_text(json.dumps({"machine": machine, "rows": earlier}))
        bench.main()
        rows = json.loads(bench.RESULTS.read_text())["rows"]
        assert [row["cpu"] for row in rows if row["name"] == "G = 8"] == kept
        assert [row["cpu"] for row in rows if row["name"] == "fast"] == [2.0]
    monkeypatch.setattr("sys.argv", ["bench", "rest"])  # no way is measured again
    bench.RESULTS.write_text(json.dumps({"machine": bench.machine(), "rows": earlier}))
    bench.main()
    rows = json.loads(bench.RESULTS.read_text())["rows"]
    assert [row["cpu"] for row in rows if row["name"] in ("G = 8", "fast")] == [1.0, 1.0]


def test_a_name_that_nothing_has_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "rest", "--only", "G = 9"])
    with pytest.raises(SystemExit):
        bench.main()
    said = capsys.readouterr().err
    assert "'G = 9'" in said
    assert '"G = 16"' in said


def test_every_row_says_what_was_measured_and_when(monkeypatch):
    done = SimpleNamespace(stdout='a warning\n{"cpu": 1.0}\n{"cpu": 2.0}\n')
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: done)
    rows = bench.measure("G = 8", ["one_step"], "abc1234-dirty")
    assert [row["cpu"] for row in rows] == [1.0, 2.0]
    assert {row["commit"] for row in rows} == {"abc1234-dirty"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row["at"]) for row in rows)


def test_matmul_and_predict_are_measured_once_a_round(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(bench, "measure", lambda name, command, _: ran.append(name) or [])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr("sys.argv", ["bench", "full", "--only", "matmul", "predict"])
    bench.main()
    assert sorted(ran) == ["matmul"] * 5 + ["predict"] * 5
