"""`r1omni doctor --cache` on a real DVC project with one damaged bit."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from dvc_commands import dvc_outputs
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.dvc_cache import check_cache, find_cache

STAGE = """
stages:
  make:
    cmd: mkdir made && printf whole > made/a.bin && printf other > made/b.bin
    outs: [made]
"""
CONFIG = """
[core]
    no_scm = True
[cache]
    type = hardlink
"""
MADE = (("add", "--quiet", "raw/own.bin"), ("repro", "--quiet"))


def flip(path: Path) -> None:
    """One bit of a read-only file becomes another, and its times stay: what a bad disk does."""
    before, mode = path.stat(), path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    path.chmod(mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def keep(cache: Path, content: bytes, suffix: str = "") -> Path:
    """An object in a cache, as DVC names it."""
    name = hashlib.md5(content).hexdigest()
    path = cache / "files/md5" / name[:2] / f"{name[2:]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def name_of(path: Path) -> str:
    return path.parent.name + path.name


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A stage's folder and a file of the user's own, both hard-linked to DVC's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(CONFIG)
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/own.bin").write_text("mine")
    dvc_outputs(tmp_path, *MADE)
    return tmp_path


def doctor(*options: str):
    return CliRunner().invoke(app, ["doctor", "--cache", *options])


def test_a_flipped_bit_is_named_with_its_output_removed_and_made_again(project):
    cache = find_cache(project)
    assert check_cache(project, cache).damaged == ()
    flip(project / "made/a.bin")
    flip(project / "raw/own.bin")
    (status,) = dvc_outputs(project, ("status",))
    assert "up to date" in status  # DVC does not notice
    found = doctor()
    assert found.exit_code == 1
    named = [line for line in found.output.splitlines() if line.startswith("✗")]
    assert [line.split(" is damaged: ")[1] for line in sorted(named, key=lambda n: n[-1:])] == [
        "made/a.bin",
        "raw/own.bin",
    ]
    assert "4 objects read" in found.output and "2 damaged" in found.output
    assert "no stage makes raw/own.bin: `dvc pull` it" in found.output

    assert doctor("--remove").exit_code == 1
    (project / "raw/own.bin").unlink()
    (project / "raw/own.bin").write_text("mine")  # the good copy of its owner
    dvc_outputs(project, *MADE)
    assert (project / "made/a.bin").read_text() == "whole"
    assert check_cache(project, cache).damaged == ()


def test_a_damaged_list_of_a_folder_is_named_by_the_folder(tmp_path):
    """An object of no output is named too; what is no object (an unfinished transfer) is not."""
    listed = keep(tmp_path, b'[{"md5": "0", "relpath": "a.bin"}]', ".dir")
    stray = keep(tmp_path, b"an earlier run's")
    keep(tmp_path, b"unfinished", ".tmp")
    (tmp_path / "dvc.lock").write_text(
        "stages: {make: {outs: [{path: made, md5: " + name_of(listed) + "}]}}"
    )
    flip(listed)
    flip(stray)
    examined = check_cache(tmp_path, tmp_path)
    assert examined.n_objects == 2
    assert sorted(map(str, examined.damaged)) == sorted(
        [f"{listed} is damaged: made", f"{stray} is damaged: no output of dvc.lock"]
    )


def test_what_a_damaged_list_of_a_folder_says_is_not_believed(tmp_path):
    """The damaged list names the stray object: it is still no output."""
    stray = keep(tmp_path, b"an earlier run's")
    listed = keep(tmp_path, b'[{"md5": "0", "relpath": "a.bin"}]', ".dir")
    listed.write_text(json.dumps([{"md5": name_of(stray), "relpath": "a.bin"}]))
    (tmp_path / "dvc.lock").write_text(
        "stages: {make: {outs: [{path: made, md5: " + name_of(listed) + "}]}}"
    )
    flip(stray)
    assert sorted(map(str, check_cache(tmp_path, tmp_path).damaged)) == sorted(
        [f"{listed} is damaged: made", f"{stray} is damaged: no output of dvc.lock"]
    )


def test_outside_of_a_project_and_without_anything_to_look_at_it_says_what_to_pass(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run this in the project's folder"):
        find_cache(tmp_path)
    for wrong in ([], ["dfew"], ["--remove"]):
        assert CliRunner().invoke(app, ["doctor", *wrong]).exit_code == 2
