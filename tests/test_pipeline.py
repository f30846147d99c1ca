"""The whole pipeline at toy size in a copy of this project: killed, continued, repeated.

Real mp4 files, real DVC and git, real SQLite.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from dvc_commands import dvc_outputs
from typer.testing import CliRunner, Result

from r1omni.cli import app

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
TOY = {
    "synthetic": {
        "corpora": {
            "generic": {"clips": 48},
            "reasoning": {"clips": 33},
            "dfew": {"clips": 70},
            "mafw": {"clips": 66},
            "ravdess": {"clips": 32},
        },
    },
    "validation": {"min_clips_per_label": 0},
    "base": {"tower_steps": 4, "connector_steps": 4, "align": {"epochs": 2}},
    "cold_start": {"epochs": 12, "batch_size": 8, "lr": 3.0e-3},
    "label_sft": {"epochs": 1, "batch_size": 64},
    "grpo": {"steps": 6, "clips_per_step": 4, "group_size": 4, "max_new_tokens": 48},
    "held_out": {"clips": 8, "every": 4},
    # two processes: tests/training/test_side_by_side.py
    "machine": {"save_every": 3, "processes": 1, "workers": 1},
    "predict": {"max_new_tokens": 48},
    "judges": {"components": 8},
    "audit": {"clips": 4, "donors": 1, "samples": 2},
    "score": {"bootstrap_samples": 50},
    "report": {"rollout_groups": 2},
    "tracking": {"system_metrics": False},
}


def merge(base: dict, over: dict) -> dict:
    return {
        k: merge(v, over[k]) if isinstance(over.get(k), dict) else over.get(k, v)
        for k, v in base.items()
    }


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DO_NOT_TRACK": "true"}


def run(folder: Path, *command: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )


def command(folder: Path, *arguments: str) -> Result:
    """An `r1omni` command in this process, which has torch and MLflow imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, [*arguments])


def dvc(folder: Path, *commands: tuple[str, ...]) -> list[str]:
    """What each `dvc` command prints."""
    return dvc_outputs(folder, *commands, environment=environment())


def kill_when(folder: Path, happened) -> None:
    """Start the pipeline and kill it with SIGKILL once `happened`; nothing may be left running."""
    with (folder / "killed.log").open("a") as log:
        process = subprocess.Popen(
            [BIN / "r1omni", "repro"],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 1800
        while not happened():
            assert process.poll() is None, (folder / "killed.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "killed.log").read_text()[-3000:]
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def git(folder: Path, *arguments: str) -> str:
    """What git prints; it must succeed."""
    author = ("-c", "user.name=toy", "-c", "user.email=toy@localhost")
    done = run(folder, "git", *author, *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def lines_in(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def files_of(repo: Path) -> list[str]:
    """The project's own files; in a copy that has no git, all but what a run or a tool made."""
    listed = run(repo, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode == 0:
        return [name for name in listed.stdout.split("\0") if name]
    made = {".venv", ".state", ".sweep", ".prefect", "data", "mlartifacts", "__pycache__"}
    files = (path.relative_to(repo) for path in repo.rglob("*") if path.is_file())
    return [str(file) for file in files if not made & set(file.parts)]


@pytest.fixture(scope="module")
def project(tmp_path_factory, repo) -> Path:
    """A copy of the project whose pipeline was killed once and then ran to its end."""
    folder = tmp_path_factory.mktemp("pipeline") / "the lab's project"
    for name in files_of(repo):
        if (repo / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo / name, folder / name)
    params = merge(yaml.safe_load((repo / "params.yaml").read_text()), TOY)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git(folder, "init", "--quiet")
    commit(folder, "the project at toy size")
    kill_when(folder, lambda: (folder / "data/manifests/dfew.parquet").exists())
    done = run(folder, str(BIN / "r1omni"), "repro")
    (folder / "repro.log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


def test_it_ends_with_table_1_on_screen(project):
    printed = (project / "repro.log").read_text()
    tail = printed[-3000:]
    for word in ("DFEW", "MAFW", "RAVDESS", "cold_start", "grpo", "label_sft", "base"):
        assert word in tail
    assert "is now champion: the first" in printed.splitlines()[-1]


def test_every_artefact_says_synthetic_and_the_models_size(project):
    """The report's first screen, Table 1 as a file and on screen, metrics, the registry."""
    from mlflow import MlflowClient

    from r1omni.lineage import size_text
    from r1omni.tracking.registry import read_receipt, registered_version

    provenance = json.loads((project / "data/checkpoints/grpo/provenance.json").read_text())
    total = provenance["parameters"]["total"]
    said = f"synthetic corpora (rendered faces), HumanOmni, {size_text(total)} parameters, seed 1"
    report = (project / "data/reports/report.html").read_text()
    assert "on synthetic corpora (rendered faces), a" in report[: report.index("</title>")]
    assert said in report[report.index("<h1>") : report.index("<main>")].replace("Syn", "syn")
    assert (project / "data/reports/table1.md").read_text().startswith(f"**Table 1: {said}**")
    screen = (project / "repro.log").read_text()[-3000:]
    assert said in screen
    assert screen.count("(synthetic)") == 3
    metrics = json.loads((project / "data/reports/metrics.json").read_text())
    for corpora in metrics.values():
        for entry in corpora.values():
            assert (entry["data"], entry["trained_on"]) == ("synthetic", "synthetic")
            assert (entry["parameters"], entry["seed"]) == (total, 1)
            assert entry["code"] == provenance["code"]
    assert metrics["grpo"]["dfew"]["shortcut"] == 0.5
    assert set(provenance["data"]) == {"conversations", "dfew", "generic", "mafw"}
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    version = registered_version(client, read_receipt(project / "data/registry/grpo.json"))
    assert f"synthetic corpora (rendered faces) · {size_text(total)} parameters" in (
        version.description
    )
    assert client.get_run(version.run_id).data.tags["git.dirty"] in ("true", "false")
    made = json.loads((project / ".state/grpo.made.json").read_text())
    assert made["mlflow.source.git.commit"] == git(project, "rev-parse", "HEAD").strip()


def test_the_cards_say_so_too_and_a_number_is_traced_to_all_that_made_it(project):
    content = json.loads((project / "data/registry/grpo.json").read_text())["content_hash"]
    card = (project / "data/cards/grpo/README.md").read_text()
    assert "> **A toy.**" in card
    assert content in card
    assert len(list((project / "data/cards").glob("*.croissant.json"))) == 4
    assert len(list((project / "mlartifacts").rglob("bom.json"))) == 4
    done = command(project, "trace", "grpo", "dfew", "war")
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"content hash {content}" in done.output
    assert "✗" not in done.output


def test_metrics_hold_every_model_and_corpus(project):
    metrics = json.loads((project / "data/reports/metrics.json").read_text())
    assert set(metrics) == {"base", "cold_start", "label_sft", "grpo"}
    for corpora in metrics.values():
        for name, values in corpora.items():
            predictions = pd.read_parquet(project / "data/predictions/grpo.parquet")
            assert values["n"] == int((predictions.corpus == name).sum())
            assert 0.0 <= values["war_ci"][0] <= values["war"] <= values["war_ci"][1] <= 1.0


def test_the_war_can_be_recomputed_from_the_raw_completions(project):
    from r1omni.completions import parse
    from r1omni.emotions import canonical

    metrics = json.loads((project / "data/reports/metrics.json").read_text())
    rows = pd.read_parquet(project / "data/predictions/cold_start.parquet")
    rows = rows[rows.corpus == "dfew"]
    parsed = [parse(text) for text in rows.completion]
    right = [
        p is not None and canonical(p.answer) == label
        for p, label in zip(parsed, rows.label, strict=True)
    ]
    assert metrics["cold_start"]["dfew"]["war"] == pytest.approx(sum(right) / len(right))


def test_judges_and_audit_read_no_side_file_and_are_the_same_again(project, tmp_path, monkeypatch):
    from r1omni.corpora.sets import read_set
    from r1omni.evaluation.audit.audit import run_audit
    from r1omni.judges.loading import read_judged
    from r1omni.judges.stage import run_judges
    from r1omni.params_file import read_params

    monkeypatch.chdir(project)
    params = read_params(Path("params.yaml"))
    truth = Path("data/truth")
    truth.rename(tmp_path / "truth")
    try:
        sets = [read_set(Path(f"data/sets/{name}.json")) for name in ("cold_start", "test")]
        run_judges(
            *sets,
            [],
            Path("data/measures"),
            tmp_path / "judges",
            tmp_path / "evidence",
            judges=params.judges,
        )
        run_audit(
            Path("data/checkpoints/grpo"),
            Path("data/predictions/grpo.parquet"),
            sets[1],
            read_judged(tmp_path / "judges"),
            tmp_path / "grpo.json",
            tmp_path / "grpo.parquet",
            audit=params.audit,
            score=params.score,
            max_new_tokens=params.predict.max_new_tokens,
            batch_size=params.machine.predict_batch_size,
            processes=1,
            device="cpu",
        )
    finally:
        (tmp_path / "truth").rename(truth)
    for again, first in (
        (tmp_path / "judges", Path("data/judges")),
        (tmp_path, Path("data/audit")),
    ):
        for path in (p for p in again.iterdir() if p.is_file()):
            assert path.read_bytes() == (first / path.name).read_bytes(), path.name
    shown = command(project, "table", "--audit")
    assert "What decides the answer" in shown.output
    assert "describes a voice in silence" in shown.output


def lock(project: Path) -> dict:
    return yaml.safe_load((project / "dvc.lock").read_text())["stages"]


def test_curves_have_every_step_once(project):
    for stage, steps in (("grpo", 6), ("cold_start", 50)):
        path = project / f"data/training/{stage}/curves.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        assert not [key for row in rows for key in row if key.startswith("time/")]
    rollouts = pd.read_parquet(project / "data/training/grpo/rollouts.parquet")
    assert sorted(rollouts.step.unique()) == list(range(1, 7))
    assert rollouts.reward.nunique() > 1  # or GRPO had nothing to learn from
    assert not rollouts.duplicated(["step", "clip_id", "group"]).any()


def test_mlflow_has_a_run_per_checkpoint_and_no_step_twice(project):
    from mlflow import MlflowClient

    from r1omni.tracking.registry import read_receipt, registered_version

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    for name in ("base", "cold_start", "label_sft", "grpo"):
        receipt = read_receipt(project / f"data/registry/{name}.json")
        version = registered_version(client, receipt)
        metrics = client.get_run(version.run_id).data.metrics
        assert "eval/ravdess/war" in metrics
        history = client.get_metric_history(version.run_id, "train/loss")
        steps = [point.step for point in history]
        assert steps == sorted(set(steps))
        assert len(steps) == lines_in(project / f"data/training/{name}/curves.jsonl")


def test_checkpoints_are_on_disk_once(project):
    receipt = json.loads((project / "data/registry/grpo.json").read_text())
    weights = project / "data/checkpoints/grpo/model.safetensors"
    linked = list((project / "mlartifacts").rglob("model.safetensors"))
    assert receipt["content_hash"]
    assert weights.stat().st_ino in {p.stat().st_ino for p in linked}


def test_git_sees_new_numbers_and_a_second_repro_does_nothing(project):
    changed = git(project, "status", "--short").split()
    assert changed[1::2] == ["data/reports/summary.json", "dvc.lock", "killed.log", "repro.log"]
    commit(project, "the numbers")
    again = run(project, str(BIN / "r1omni"), "repro")
    assert again.returncode == 0
    assert "Running stage" not in again.stdout
    assert git(project, "status", "--short") == ""


def test_a_colleague_pulls_what_was_pushed(project, tmp_path):
    """push, clone, pull: DVC and git find nothing changed, and the report is there."""
    remote = ("remote", "add", "--default", "lab", str(tmp_path / "remote"))
    dvc(project, remote, ("push", "--quiet"))
    commit(project, "a remote")
    git(tmp_path, "clone", "--quiet", str(project), "clone")
    clone = tmp_path / "clone"
    _, status = dvc(clone, ("pull", "--quiet"), ("status",))
    assert "up to date" in status, status
    assert git(clone, "status", "--short") == ""
    assert (clone / "data/reports/report.html").read_bytes() == (
        project / "data/reports/report.html"
    ).read_bytes()


def test_the_users_files_are_left_alone(project):
    """What lies in data/raw is kept by a forced run and by `make clean`, and DVC takes it in."""
    own = project / "data/raw/ravdess/mine.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    forced = ("repro", "-f", "-s", "synthesize@ravdess")
    _, again = dvc(project, ("add", "data/raw/ravdess"), forced)
    assert "Running stage 'synthesize@ravdess'" in again
    assert git(project, "status", "--short").split() == ["??", "data/raw/ravdess.dvc"]
    assert own.read_text() == "mine"
    recipe = run(project, "make", "--dry-run", "clean").stdout
    assert "data/raw" not in recipe
    assert ".dvc/cache" not in recipe
    (project / "data/raw/ravdess.dvc").unlink()


@pytest.fixture(scope="module")
def shown(project) -> list[str]:
    """What DVC prints of metrics, of experiments, and of what follows GRPO."""
    experiments = ("exp", "show", "--only-changed", "--csv")
    following = ("repro", "--dry", "--downstream", "grpo")
    return dvc(project, ("metrics", "show", "--json"), experiments, following)


def test_one_experiment_is_compared_by_three_dozen_numbers(shown):
    metrics, table, _ = shown
    (values,) = json.loads(metrics)[""]["data"].values()
    assert len(json.dumps(values["data"]).split(":")) - 1 == 4 + 4 * 3 + 4 * 3 * 3
    assert 1 < len(table.splitlines()[0].split(",")) < 60


def test_changing_grpo_reruns_grpo_and_what_follows_only(project, shown):
    path = project / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("kl_coef: 0.04", "kl_coef: 0.05"))
    status = run(project, str(BIN / "dvc"), "status", "--json")
    path.write_text(text)
    changed = set(json.loads(status.stdout[status.stdout.index("{") :]))
    assert changed == {"grpo"}
    following = shown[2]
    assert "'register@grpo'" in following
    assert "cold_start" not in following.replace("predict@cold_start", "").replace(
        "register@cold_start", ""
    )


def test_an_unknown_key_is_one_clear_line(project):
    path = project / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("kl_coef:", "kl_ceof:"))
    failed = run(project, str(BIN / "r1omni"), "repro")
    path.write_text(text)
    assert failed.returncode == 1
    assert "params.yaml:" in failed.stdout
    assert "grpo.kl_ceof: unknown key" in failed.stdout
    assert "Traceback" not in failed.stdout


def test_predict_names_the_emotion_of_a_clip_with_no_skew_and_refuses_what_is_no_clip(
    project, tmp_path
):
    from mlflow import MlflowClient

    from r1omni.tracking.registry import find_model_version

    clip = next((project / "data/synthetic/ravdess").rglob("01-01-*.mp4"))
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    champion = "models:/r1-omni@champion"  # README's line
    answered = command(project, "predict", str(clip), str(text), "--model", champion)
    assert answered.exit_code == 1, (answered.output, answered.exception)
    assert isinstance(answered.exception, SystemExit)
    model = find_model_version(MlflowClient(f"sqlite:///{project}/mlflow.db"), champion)
    rows = pd.read_parquet(project / f"data/predictions/{model.tags['model']}.parquet")
    rows = rows.set_index("clip_id")
    row = rows.loc[f"ravdess/{clip.stem}"]
    prediction = row.prediction if isinstance(row.prediction, str) else "no known emotion"
    assert f"{clip.name}: {prediction}" in answered.output
    assert "notes.mp4: refused: " in answered.output
    assert "Traceback" not in answered.output


def test_the_flow_runs_the_same_graph(project, monkeypatch):
    """As the deployment does, on a small graph, in tests/flows/test_grpo_pipeline.py."""
    from flows.stages import read_stages

    monkeypatch.chdir(project)
    names = ("base", "cold_start", "label_sft")
    others = {f"{verb}@{name}" for verb in ("register", "held_out") for name in names}
    stages = read_stages(project, ["report", "register@grpo"])
    assert {stage.name for stage in stages} == set(lock(project)) - others
    assert {stage.name for stage in read_stages(project)} == set(lock(project))
