"""The code that made a result: commit, dirty flag and date, outside DVC's outputs."""

import json
import subprocess
from pathlib import Path

import pytest

from r1omni.tracking.provenance import code_tags, lineage_tags, write_commit_record


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=toy", "-c", "user.email=toy@localhost")
    done = subprocess.run(
        ["git", *author, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("rewards.py", "dvc.lock", "data/reports/summary.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def test_edited_code_is_dirty_and_what_a_run_writes_is_not(repository: Path) -> None:
    for name in ("dvc.lock", "data/reports/summary.json"):
        (repository / name).write_text("2")
    tags = code_tags()
    assert tags["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
    assert tags["git.dirty"] == "false"
    (repository / "rewards.py").write_text("2")
    assert code_tags()["git.dirty"] == "true"


def test_commit_dirty_flag_and_date_are_noted_in_a_file_of_their_own(repository: Path) -> None:
    write_commit_record(repository / "state/grpo.made.json")
    note = json.loads((repository / "state/grpo.made.json").read_text())
    assert note["git.dirty"] == "false"
    assert note["date"].startswith("20")
    assert [path.name for path in (repository / "state").iterdir()] == ["grpo.made.json"]


def test_a_checkpoint_of_another_program_is_of_unknown_data(tmp_path: Path) -> None:
    assert lineage_tags(tmp_path) == {"data": "unknown"}
