"""The bench's measurements by their names."""

import json

import pytest

from benchmarks import bench


@pytest.mark.parametrize("name", [name for name, _ in bench.the_rest()])
def test_each_measurement_of_the_rest_runs_alone_by_its_name(monkeypatch, tmp_path, name):
    ran = []
    monkeypatch.setattr(bench, "measure", lambda name, command: ran.append((name, command)) or [])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    for what in ("rest", "full"):  # in `full`, none of the ways either
        ran.clear()
        monkeypatch.setattr("sys.argv", ["bench", what, "--add", "--only", name])
        bench.main()
        assert ran == [(name, dict(bench.the_rest())[name])]


def test_a_named_way_is_measured_once_a_round(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(bench, "measure", lambda name, command: ran.append(name) or [])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    command = ["bench", "full", "--rounds", "3", "--only", "G = 8", "G = 16"]
    monkeypatch.setattr("sys.argv", command)
    bench.main()
    assert ran == ["G = 8", "G = 16", "G = 16", "G = 8", "G = 8", "G = 16"]


def test_what_is_not_measured_anew_stays_if_this_machine_measured_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "measure", lambda name, command: [{"name": name, "cpu": 2.0}])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr("sys.argv", ["bench", "quick", "--rounds", "1"])
    earlier = [{"name": "G = 8", "cpu": 1.0}, {"name": "fast", "cpu": 1.0}]
    for machine, kept in ((bench.machine(), [1.0]), ({"cpu": "another"}, [])):
        bench.RESULTS.write_text(json.dumps({"machine": machine, "rows": earlier}))
        bench.main()
        rows = json.loads(bench.RESULTS.read_text())["rows"]
        assert [row["cpu"] for row in rows if row["name"] == "G = 8"] == kept
        assert [row["cpu"] for row in rows if row["name"] == "fast"] == [2.0]


def test_a_name_that_nothing_has_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "rest", "--only", "G = 9"])
    with pytest.raises(SystemExit):
        bench.main()
    said = capsys.readouterr().err
    assert "'G = 9'" in said
    assert '"G = 16"' in said
