"""Code that is edited while a stage runs."""

import shutil
import subprocess
import sys

from r1omni.stages import StageCommand, stages

EDITS = """
from pathlib import Path
from typer.testing import CliRunner
from r1omni import own_code, rewards
from r1omni.stages import StageCommand, stages

@stages.command(cls=StageCommand)
def edits(name: str) -> None:
    with (own_code.PACKAGE / name).open("a") as file:
        file.write("# edited")

for name in ("stages/data.py", "tracking/runs.py", "evaluation/score.py", "rewards.py"):
    result = CliRunner().invoke(stages, ["edits", name])
    print(name, result.exit_code, result.exception)
"""


def test_a_stage_fails_where_code_that_it_imported_and_that_decides_results_was_edited(
    repo, tmp_path
):
    shutil.copytree(repo / "r1omni", tmp_path / "r1omni")
    done = subprocess.run(
        [sys.executable, "-c", EDITS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    *unharmed, refused = done.stdout.splitlines() or [done.stderr]
    edited = ("stages/data.py", "tracking/runs.py", "evaluation/score.py")
    assert unharmed == [f"{name} 0 None" for name in edited]  # plumbing, or not imported
    assert refused.startswith("rewards.py 1 r1omni/rewards.py changed while edits ran: what it")
    assert "# edited" in (tmp_path / "r1omni/rewards.py").read_text()


def test_every_stage_is_watched():
    assert {command.cls for command in stages.registered_commands} == {StageCommand}
