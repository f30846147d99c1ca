"""`r1omni fetch` against a hub on 127.0.0.1: whole or not at all, pinned, and plain errors.

Each fetch is the command in a process of its own, as HF_ENDPOINT is read when it starts.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc_commands import dvc_outputs
from stand_in_hub import Hub, commit_of, serving

from r1omni import hub as ours

OWNER = "Someone/Omni-0.5B"
TOWERS = {"vision": "maker/siglip", "audio": "maker/whisper", "gate": "maker/bert"}
LEFT_OUT = ("HF_", "DVC_", "SHELL", "DO_NOT_TRACK")  # the last, as fetch itself is to be silent
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)},
    "NO_PROXY": "127.0.0.1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


@pytest.fixture
def hub(tmp_path: Path, repo: Path) -> Iterator[Hub]:
    """The golden checkpoint, its towers' settings in repositories of their own."""
    root = tmp_path / "hub"
    golden = repo / "tests/golden/golden_a"
    main = root / OWNER / "main"
    main.mkdir(parents=True)
    for file in golden.iterdir():
        if file.is_file():
            shutil.copyfile(file, main / file.name)
    for place in TOWERS.values():
        shutil.copytree(golden / Path(place).name, root / place / "v1", copy_function=shutil.copy)
    (main / "README.md").write_text("not read by the converter")
    (main / "pytorch_model.bin").write_bytes(b"the same tensors, pickled")
    with serving(root) as running:
        yield running


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "r1omni.cli", "fetch", *map(str, arguments)]


def environment(folder: Path, url: str) -> dict[str, str]:
    return ENVIRONMENT | {"HF_ENDPOINT": url, "HF_HOME": str(folder / "hf-home")}


def fetch(folder: Path, url: str, *arguments: str, repo: str = OWNER, revision: str = "main"):
    return subprocess.run(
        command(repo, folder, "--revision", revision, *arguments),
        env=environment(folder.parent, url),
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def with_towers() -> list[str]:
    return [part for tower, place in TOWERS.items() for part in (f"--{tower}", f"{place}@v1")]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_fetched_checkpoint_is_what_the_converter_reads_and_its_commits_are_recorded(
    hub, tmp_path, repo
):
    """`fetched.json` has nothing else that changes: a second one is the same."""
    from r1omni.model.humanomni.conversion import read_checkpoint

    folder = tmp_path / "out/base"
    done = fetch(folder, hub.url, *with_towers())
    assert done.returncode == 0, done.stderr
    golden = repo / "tests/golden/golden_a"
    towers = {f"{p.parent.name}/{p.name}" for name in ("bert", "siglip", "whisper")
              for p in (golden / name).iterdir()}  # fmt: skip
    assert files_in(folder) == {"config.json", "model.safetensors", "fetched.json"} | towers
    assert names(folder.parent) == {"base"}
    for name in files_in(folder) - {"fetched.json"}:
        assert (folder / name).read_bytes() == (golden / name).read_bytes()
    assert len(read_checkpoint(folder).report.used) == 300
    assert "Fetching" in done.stderr  # the progress bar
    assert fetch(tmp_path / "b", hub.url, *with_towers()).returncode == 0
    assert (folder / "fetched.json").read_bytes() == (tmp_path / "b/fetched.json").read_bytes()
    assert json.loads((folder / "fetched.json").read_text()) == {
        "repo": OWNER,
        "revision": "main",
        "commit": commit_of("main"),
        "towers": {
            tower: {"repo": place, "revision": "v1", "commit": commit_of("v1")}
            for tower, place in TOWERS.items()
        },
    }


def test_a_tower_lies_where_config_json_calls_it(hub, tmp_path):
    (hub.root / "maker/bert").rename(hub.root / "maker/bert-base-uncased")
    done = fetch(tmp_path / "a", hub.url, "--gate", "maker/bert-base-uncased@v1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/bert/vocab.txt").is_file()  # bert_path: somewhere/bert


def test_no_telemetry_is_sent_and_what_an_older_commit_left_half_done_is_removed(hub, tmp_path):
    (tmp_path / ".a.0123456789ab.partial").mkdir()
    assert fetch(tmp_path / "a", hub.url).returncode == 0
    assert {path.split("/")[1] for _, path in hub.asked} == {"api", "Someone"}
    assert all(path.startswith(("/api/models/Someone/", "/Someone/")) for _, path in hub.asked)
    assert not any("torch" in agent for agent in hub.agents)
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize(
    ("asked", "revision", "expected"),
    [
        ("Someone/Else", "main", "has no repository Someone/Else, or hides it: check the name"),
        (OWNER, "v9", f"{OWNER} has no such branch, tag or commit"),
    ],
)
def test_what_is_not_there_is_one_line_and_no_folder(hub, tmp_path, asked, revision, expected):
    done = fetch(tmp_path / "a", hub.url, repo=asked, revision=revision)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {asked}, revision {revision}: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_gated_repository_says_how_to_be_let_in(hub, tmp_path):
    hub.gated.add(OWNER)
    done = fetch(tmp_path / "a", hub.url)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"error: {OWNER}, revision main: access to {OWNER} is granted on request: ask at "
        f"{hub.url}/{OWNER}, then log in by `hf auth login` or set HF_TOKEN"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_that_cannot_be_reached_is_one_line_and_no_folder(tmp_path):
    url = closed_port()
    done = fetch(tmp_path / "a", url)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {OWNER}, revision main: {url} cannot be reached (")
    assert "set HF_ENDPOINT to a mirror, or bring the files yourself" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_command_that_takes_a_hub_id_says_the_same(tmp_path, repo):
    url = closed_port()
    done = subprocess.run(
        [sys.executable, "-m", "r1omni.cli", "predict", "clip.mp4", "--model", OWNER],
        cwd=repo,
        env=environment(tmp_path, url),
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {OWNER}: {url} cannot be reached (")
    assert "Traceback" not in done.stderr


def test_a_killed_fetch_leaves_no_folder_and_is_continued(hub, tmp_path):
    hub.breaks = "model.safetensors"
    folder = tmp_path / "out/base"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        command(OWNER, folder, "--revision", "main"),
        env=environment(tmp_path, hub.url),
        stdout=log,
        stderr=log,
    )
    assert hub.half_sent.wait(60), (tmp_path / "log").read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    assert hub.sent().count("config.json") == 1
    hub.mended.set()
    assert fetch(folder, hub.url).returncode == 0
    assert hub.sent().count("config.json") == 1  # came before the kill
    whole = hub.root / OWNER / "main/model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == whole.read_bytes()
    assert names(folder.parent) == {"base"}


def test_a_folder_that_is_there_is_not_touched(hub, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine").touch()
    done = fetch(tmp_path / "a", hub.url)
    assert done.stderr == f"error: {tmp_path / 'a'}: exists already; remove it to fetch it again\n"
    assert files_in(tmp_path / "a") == {"mine"}
    assert hub.asked == []


def test_a_repository_without_config_json_is_no_checkpoint(hub, tmp_path):
    (hub.root / OWNER / "main/config.json").unlink()
    done = fetch(tmp_path / "a", hub.url)
    assert done.stderr.endswith("has no config.json, so is no checkpoint\n")
    assert not (tmp_path / "a").exists()


def test_the_files_are_those_that_the_converter_looks_for():
    from r1omni.model import weights
    from r1omni.model.humanomni import original_layout

    assert set(ours.WEIGHTS) == {weights.SAFETENSORS, weights.PICKLED}
    keys = {name: tower.config_key for name, tower in original_layout.TOWERS.items()}
    assert keys == ours.TOWER_KEYS


def test_one_form_of_the_tensors_is_chosen_in_each_folder(tmp_path):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    whisper = ["model.fp32-00001-of-00002.safetensors", "pytorch_model.bin", "flax_model.msgpack"]
    listed = ["config.json", "model.safetensors.index.json", *shards, *whisper,
              "tower/pytorch_model.bin", "tower/pytorch_model.fp32.bin", "other/x.bin"]  # fmt: skip
    assert ours.weight_files(tmp_path, listed) == [*shards, "tower/pytorch_model.bin"]


@pytest.mark.parametrize(
    "index", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}']
)
def test_an_index_that_names_no_files_here_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json: "):
        ours.weight_files(tmp_path, ["model.safetensors.index.json", "b"])


def test_dvc_fetches_before_the_base_reads_and_not_a_second_time(hub, tmp_path, repo):
    """The paper profile's own stages: the graph has the edge, the lock has the folder."""
    project = tmp_path / "project"
    (project / "r1omni").mkdir(parents=True)
    shutil.copy(repo / "dvc.yaml", project)
    shutil.copy(repo / "r1omni/hub.py", project / "r1omni")
    params = yaml.safe_load((repo / "params/paper.yaml").read_text())
    params["hub"]["base"] |= {
        "repo": OWNER,
        "towers": {tower: f"{place}@v1" for tower, place in TOWERS.items()},
    }
    (project / "params.yaml").write_text(yaml.safe_dump(params))

    def dvc(*commands: tuple[str, ...]) -> list[str]:
        variables = environment(tmp_path, hub.url) | {"PYTHONPATH": str(repo)}
        return dvc_outputs(project, *commands, environment=variables)

    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\n    no_scm = True\n")
    dvc(("repro", "fetch"))
    folder = project / params["base"]["source"]
    assert {"config.json", "fetched.json", "bert", "siglip"} < names(folder)
    asked = len(hub.asked)
    again, graph = dvc(("repro", "fetch"), ("dag", "--dot"))
    assert "didn't change" in again
    assert len(hub.asked) == asked
    edges = [line.strip().rstrip(";") for line in graph.splitlines()]
    assert '"fetch@base" -> "base"' in edges
