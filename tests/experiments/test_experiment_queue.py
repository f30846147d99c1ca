"""A study on DVC's real queue, in a project of two short stages: resume, failures, reading."""

import json
import subprocess
from pathlib import Path

import pytest

from r1omni.experiments import queue, run
from r1omni.experiments.headings import ACCURACY, CAUSES
from r1omni.experiments.queue import open_queue
from r1omni.experiments.rows import read_rows
from r1omni.experiments.studies import Study, Variant

STUDY = Study(
    "toy",
    "Does it work?",
    (
        Variant("as-it-is"),
        Variant("broken", ("grpo.war=-1",)),
        Variant("unknown-key", ("grpo.wra=1",)),
    ),
    seeded=("grpo",),
    models=("grpo",),
    tables=(ACCURACY, CAUSES),
)
SCORE = """
import json, sys
from pathlib import Path
import yaml
with open({journal!r}, "a") as journal:
    print(sys.argv[1], file=journal)
grpo = yaml.safe_load(open("params.yaml"))["grpo"]
if grpo["war"] < 0:
    sys.exit("this training diverged")
war, n = grpo["war"] + grpo["seed"] / 100, 100
rates = dict(war=war, uar=war, war_ci=[war - 0.05, war + 0.05], uar_ci=[war, war], n=n,
             recall={{"sad": war}})
corpus = dict(
    rates, fold=1, mode="reasoned", confidence=0.95, protocol="-", calm_policy="keep",
    format_rate=1.0, finished_rate=1.0, silent=0, gain_over={{}},
    confusion=dict(rows=["sad"], columns=["sad", "none"], counts=[[n, 0]]))
audit = {{"all": {{"rationale.reliance": dict(value=0.5, low=0.25, high=0.75, n=8)}}}}
out = Path(sys.argv[1])
out.parent.mkdir(parents=True, exist_ok=True)
if "audit" in sys.argv[1]:
    out.write_text(json.dumps(dict(model="grpo", mode="reasoned", corpora=audit)))
else:
    out.write_text(json.dumps({{"grpo": {{"dfew": corpus}}}}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")

    def call(*command: str) -> None:
        subprocess.run(command, cwd=root, check=True, capture_output=True)

    (root / "r1omni").mkdir()
    (root / "r1omni/score.py").write_text(SCORE.format(journal=str(root.parent / "journal")))
    (root / "params.yaml").write_text("grpo: {seed: 1, war: 0.5}\n")
    (root / "dvc.yaml").write_text(
        json.dumps({
            "stages": {
                "audit": {
                    "foreach": ["grpo"],
                    "do": {
                        "cmd": "python r1omni/score.py data/audit/${item}.json",
                        "params": ["grpo"], "outs": ["data/audit/${item}.json"],
                    },
                },
                "score": {
                    "cmd": "python r1omni/score.py data/reports/metrics.json",
                    "params": ["grpo"], "outs": ["data/reports/metrics.json"],
                },
            }
        })
    )  # fmt: skip
    call("git", "init", "-q")
    call("git", "config", "user.email", "a@example.com")
    call("git", "config", "user.name", "a")
    (root / ".dvc").mkdir()  # as `dvc init` leaves it
    (root / ".dvc/config").touch()
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    call("git", "add", ".")
    call("git", "commit", "-qm", "start")
    return root


def journal(project: Path) -> list[str]:
    return (project.parent / "journal").read_text().split()


@pytest.mark.slow
def test_rows_run_once_failures_are_named_and_the_page_is_written(project, monkeypatch):
    monkeypatch.setattr("r1omni.experiments.queue.STATUS_SECONDS", 14.0)  # each asks DVC anew
    failed = run.run_study(STUDY, [1], [], 1, project)
    assert sorted(failed) == ["broken/1", "unknown-key/1"]
    assert "this training diverged" in failed["broken/1"]
    rows = read_rows(project / "docs/results/toy.json")
    assert rows.failed == failed and list(rows.rows) == ["as-it-is/1"]
    numbers = rows.rows["as-it-is/1"].models["grpo"]
    assert (numbers["dfew.war"].value, numbers["rationale.reliance"].n) == (0.51, 8)
    page = (project / "docs/results/toy.md").read_text()
    assert "| as-it-is | 1 | grpo | 51.0 / 51.0 |  |  | 51.0 / 51.0 |  |  | 100.0 |  |" in page
    assert sorted(journal(project)) == [  # the broken row ends with its audit
        "data/audit/grpo.json", "data/audit/grpo.json", "data/reports/metrics.json"
    ]  # fmt: skip

    # A commit that changes neither code nor params keeps the rows; only what failed runs again.
    subprocess.run(["git", "add", "."], cwd=project, check=True)
    subprocess.run(["git", "commit", "-qm", "results"], cwd=project, check=True)
    assert list(run.run_study(STUDY, [1], ["as-it-is", "broken"], 1, project)) == ["broken/1"]
    assert len(journal(project)) == 4

    (project / "params.yaml").write_text("grpo: {seed: 1, war: 0.25}\n")
    with pytest.raises(ValueError, match=r"params\.yaml: differs from the commit"):
        open_queue(project)


def test_a_seed_given_twice_is_one_row_and_what_cannot_be_is_refused(monkeypatch):
    from typer.testing import CliRunner

    from r1omni.cli import app
    from r1omni.experiments import run

    asked = []
    monkeypatch.setattr(run, "run_study", lambda _, seeds, *rest: asked.append(seeds) or {})
    assert (
        CliRunner().invoke(app, ["experiment", "dropout", "--seeds", "2", "1", "2"]).exit_code == 0
    )
    assert asked == [(2, 1)]
    for wrong in (["dropout", "--seeds", "-1"], ["metrics", "--seeds", "1"]):
        assert CliRunner().invoke(app, ["experiment", *wrong]).exit_code == 2
    assert asked == [(2, 1)]


def test_the_queue_is_asked_again_while_its_files_are_being_written(monkeypatch, tmp_path):
    asked = []
    table = "Task Name Created Status\n1a2b3c4 toy-as-it-is-seed-1 01:29 PM Running\n"

    def dvc(_queue, *command):
        asked.append(command)
        if len(asked) < n_failures + 1:
            raise queue.DvcFailed("unexpected error - Expecting value: line 1 column 1 (char 0)")
        return table

    monkeypatch.setattr(queue, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(queue.ExperimentQueue, "dvc", dvc)
    n_failures = 3
    assert queue.ExperimentQueue(tmp_path, "c").states() == {"toy-as-it-is-seed-1": "Running"}
    asked.clear()
    n_failures = 4
    with pytest.raises(queue.DvcFailed, match="Expecting value"):
        queue.ExperimentQueue(tmp_path, "c").states()
    assert len(asked) == 4


@pytest.mark.parametrize("workers", [[], ["another study's"]])
def test_what_an_interrupted_study_left_queued_is_queued_from_this_commit(
    monkeypatch, tmp_path, workers
):
    """DVC queues a row from the commit of that moment; run later, it is not a row of this one."""
    called = []
    table = "Task Name Created Status\n1a2 toy-as-it-is-seed-1 01:29 PM Queued\n"

    def dvc(_queue, *command):
        called.append(command)
        return table if command == ("queue", "status") else ""

    monkeypatch.setattr(queue.ExperimentQueue, "dvc", dvc)
    monkeypatch.setattr(queue.ExperimentQueue, "_workers", lambda _: workers)
    asked = queue.ExperimentQueue(tmp_path, "c")
    assert asked._enqueue_missing(list(STUDY.trials([1]))[:2]) == {}
    queued = [words[words.index("--name") + 1] for words in called if words[0] == "exp"]
    if workers:  # they may take it at any moment
        assert queued == ["toy-broken-seed-1"]
    else:
        assert called[1] == ("queue", "remove", "toy-as-it-is-seed-1")
        assert queued == ["toy-as-it-is-seed-1", "toy-broken-seed-1"]
