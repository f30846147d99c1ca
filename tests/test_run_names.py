"""What MLflow's run list shows: the stage, what was changed since the last commit, the seed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from r1omni.params_file import read_params
from r1omni.stages.run_names import changed_params, run_name


@pytest.fixture
def committed(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml in a commit of a new repository, which is the current directory."""
    shutil.copy(repo / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    author = ["-c", "user.name=toy", "-c", "user.email=toy@localhost"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "params"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ([], "grpo seed 1"),
        ([("  kl_coef: 0.04", "  kl_coef: 0.1")], "grpo kl_coef 0.1 seed 1"),
        (
            [("  kl_coef: 0.04", "  kl_coef: 0.1"), ("  group_size: 8", "  group_size: 4"),
             ("  temperature: 0.7", "  temperature: 1.0"), ("  balance: 0.5", "  balance: 0.25")],
            "grpo group_size 4 temperature 1.0 kl_coef 0.1 … seed 1",
        ),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_was_changed(
    committed: Path, changes: list[tuple[str, str]], name: str
) -> None:
    text = committed.read_text()
    for old, new in changes:
        assert old in text, f"params.yaml has no {old!r} any more"
        text = text.replace(old, new)
    committed.write_text(text)
    params = read_params(committed)
    assert run_name("grpo", {"grpo": params.grpo, "engine": params.engine}, committed) == name


def test_without_a_commit_the_name_is_stage_and_seed(tmp_path: Path, repo: Path) -> None:
    params = read_params(repo / "params.yaml")
    outside = tmp_path / "params.yaml"
    assert run_name("cold_start", {"cold_start": params.cold_start}, outside) == (
        f"cold_start seed {params.cold_start.seed}"
    )


def test_a_key_that_the_commit_lacks_is_no_change() -> None:
    before = {"grpo": {"lr": 0.1, "seed": 1}}
    assert changed_params({"grpo": {"lr": 0.2, "seed": 2, "new": 3}}, before) == {"grpo.lr": "0.2"}
