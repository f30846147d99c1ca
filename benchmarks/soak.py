"""A soak of the deployments: two projects, many runs with changed params, workers that are killed.

    python -m benchmarks.soak --runs 25        # of each project; writes benchmarks/SOAK.md

Real Prefect, DVC, git and MLflow. The pipeline is a small one of two stages: the second trains for
some seconds, keeps its steps in a state file as our trainings do, and registers what it made.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from r1omni.config import TrackingParams

REPOSITORY = Path(__file__).resolve().parents[1]
TERMINAL = {"Completed", "Failed", "Crashed", "Cancelled"}
KILL_EVERY = 5  # runs
PARAMS = {"grpo": {"kl_coef": 0.04, "seconds": 3.0}}
PIPELINE = {
    "stages": {
        "validate": {"cmd": "echo valid > valid", "outs": ["valid"]},
        "grpo": {
            "cmd": f"{sys.executable} train.py",
            "deps": ["valid", "train.py"],
            "params": ["grpo"],
            "outs": ["receipt.json"],
        },
    }
}
TRAIN = """
import sys, tempfile, time
from pathlib import Path
import yaml
sys.path.insert(0, {tests!r})
from made_up_model import write_model
from r1omni.config import TrackingParams
from r1omni.tracking.registry import run_register
grpo = yaml.safe_load(open("params.yaml"))["grpo"]
time.sleep(grpo["seconds"])
with tempfile.TemporaryDirectory() as folder:
    paths = write_model(Path(folder), "grpo", weights=str(grpo["kl_coef"]).encode() * 100)
    paths["receipt"] = Path("receipt.json")
    run_register(**paths, name="grpo", tracking=TrackingParams(**{tracking!r}))
"""


def tracking_of(project: Path) -> dict[str, Any]:
    """The project's store, by an absolute path: an experiment runs in a worktree."""
    return {"uri": f"sqlite:///{project}/mlflow.db", "artifacts": None, "experiment": "soak",
            "system_metrics": False, "registered_model": "r1-omni"}  # fmt: skip


def make_project(project: Path) -> None:
    """A git and DVC repository with the small pipeline and this repository's flows."""
    project.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "flows", project / "flows")
    shutil.copy(REPOSITORY / "prefect.yaml", project)
    shutil.copy(REPOSITORY / "prefect.toml", project)
    (project / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (project / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    tests, tracking = str(REPOSITORY / "tests"), tracking_of(project)
    (project / "train.py").write_text(TRAIN.format(tests=tests, tracking=tracking))
    (project / ".gitignore").write_text("/.prefect\n/mlflow.db*\n/mlartifacts\n/.state\n")
    author = ("-c", "user.name=soak", "-c", "user.email=soak@localhost")
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "config", "core.analytics", "false"],
        ["git", "add", "-A"],
        ["git", *author, "commit", "-qm", "the small pipeline"],
    ):
        subprocess.run(command, cwd=project, check=True)


@contextmanager
def served(project: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`make prefect` of the project, until the end of the block."""
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{REPOSITORY}"}
    said = project.with_suffix(".log")
    with said.open("wb") as log:
        command = [sys.executable, "-m", "flows.serve", "--port", str(port)]
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        try:
            wait(lambda: "To run the pipeline" in said.read_text(), 300)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


def wait(happened: Any, seconds: float) -> None:
    """Return once it happened. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(1.0)


def prefect_rows(project: Path, statement: str) -> list[tuple[Any, ...]]:
    """Rows of Prefect's own database, which is only read."""
    import sqlite3
    from contextlib import closing

    address = f"file:{project}/.prefect/prefect.db?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=60)) as connection:
        return connection.execute(statement).fetchall()


def states(project: Path) -> Counter[str]:
    """How many runs of the deployment are in each state."""
    found = prefect_rows(project, "select state_name from flow_run where deployment_id is not null")
    return Counter(name for (name,) in found)


def soak(projects: dict[Path, subprocess.Popen[bytes]], runs: int, seed: int) -> int:
    """Start all runs of all projects, kill workers, and return how many were killed."""
    chance, kills = random.Random(seed), 0
    for project in projects:
        for number in range(runs):
            change = json.dumps([f"grpo.kl_coef={(number + 1) / 1000}"])
            command = [
                sys.executable,
                "-m",
                "prefect",
                "deployment",
                "run",
                "grpo-pipeline/default",
            ]
            done = subprocess.run(
                [*command, "--param", f"set={change}"], cwd=project, capture_output=True, text=True
            )
            if done.returncode != 0:
                raise RuntimeError(done.stdout + done.stderr)
    due = dict.fromkeys(projects, KILL_EVERY)
    while unfinished := [p for p in projects if sum(ended(p).values()) < runs]:
        for project in unfinished:
            if sum(ended(project).values()) >= due[project] - 1 and states(project)["Running"]:
                time.sleep(chance.uniform(0.0, 8.0))
                kills += kill_worker(projects[project])
                due[project] += KILL_EVERY
        sys.stderr.write(f"{[dict(states(project)) for project in projects]}\n")
        time.sleep(5.0)
    return kills


def ended(project: Path) -> Counter[str]:
    """The runs in a terminal state, by state."""
    return Counter({name: n for name, n in states(project).items() if name in TERMINAL})


def kill_worker(serving: subprocess.Popen[bytes]) -> int:
    """SIGKILL to the project's worker alone; how many were killed."""
    for child in psutil.Process(serving.pid).children():
        if "worker start" in " ".join(child.cmdline()):
            child.kill()
            return 1
    return 0


def account(project: Path) -> dict[str, Any]:
    """What is left of a project's soak: states, experiments, registry, files, problems."""
    from mlflow import MlflowClient

    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        cwd=project, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    tracking = TrackingParams(**tracking_of(project))
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    versions = client.search_model_versions("name = 'r1-omni'", max_results=1000)
    hashes = [version.tags["content_hash"] for version in versions]
    sound = subprocess.run(
        ["git", "fsck", "--no-dangling"], cwd=project, capture_output=True, text=True
    )
    clean = subprocess.run(
        ["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True
    )
    size = sum(path.stat().st_size for path in project.rglob("*") if path.is_file())
    return {
        "states": dict(states(project)),
        "experiments": len(listed),
        "versions": len(versions),
        "doubled": len(hashes) - len(set(hashes)),
        "git_fsck": sound.returncode,
        "changed_files": clean.stdout.split(),
        "mb": round(size / 1e6, 1),
        "worktrees": len(list((project / ".dvc/tmp/exps").glob("tmp*"))),
    }


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that still mention the soak's folder."""
    lines = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.pid != os.getpid() and (str(folder) in line or str(folder) in process.cwd()):
                lines.append(line[:120])
        except psutil.Error:
            continue
    return lines


def main() -> None:
    """Run the soak and write its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=25, help="of each of the two projects")
    parser.add_argument("--seed", type=int, default=1, help="of the kills' moments")
    parser.add_argument("--port", type=int, default=4310, help="and the next one")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        projects = [folder / "first", folder / "second"]
        for project in projects:
            make_project(project)
        with ExitStack() as stack:
            serving = {
                project: stack.enter_context(served(project, options.port + i))
                for i, project in enumerate(projects)
            }
            kills = soak(serving, options.runs, options.seed)
        accounts = [account(project) for project in projects]
        lines = left_over(folder)
    page = [
        "# Soak",
        "",
        f"`python -m benchmarks.soak --runs {options.runs}` wrote this; {platform.machine()}, "
        f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, "
        f"{(time.monotonic() - began) / 60:.0f} minutes.",
        "",
        f"Two projects, {options.runs} runs of `grpo-pipeline` each, each run with another "
        f"`grpo.kl_coef`; {kills} workers were killed by SIGKILL while a run was under way.",
        "",
        "| project | states | experiments | registered versions | doubled | git fsck "
        "| changed files | MB | worktrees left |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for project, found in zip(projects, accounts, strict=True):
        told = ", ".join(f"{n} {state}" for state, n in sorted(found["states"].items()))
        changed = ", ".join(found["changed_files"]) or "none"
        page.append(
            f"| {project.name} | {told} | {found['experiments']} | {found['versions']} "
            f"| {found['doubled']} | {found['git_fsck']} | {changed} | {found['mb']} "
            f"| {found['worktrees']} |"
        )
    page += ["", f"Processes left: {', '.join(lines) or 'none'}.", ""]
    (REPOSITORY / "benchmarks/SOAK.md").write_text("\n".join(page), encoding="utf-8")
    sys.stdout.write("\n".join(page))


if __name__ == "__main__":
    main()
