"""dvc.yaml against the code: a stage names every module it imports and every section it reads."""

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest
import yaml

from r1omni import stages
from r1omni.own_code import PLUMBING, RECIPE_CODE, files_of
from r1omni.params_file import read_params

# Effects and plumbing, which change no number: the command line, processes, logging, MLflow.
NOT_DEPENDENCIES = {f"r1omni/{file}" for file in files_of(PLUMBING)}

# Stage -> the module it runs and the sections of params.yaml that its run_ function takes.
STAGES = {
    "synthesize": ("r1omni/corpora/synthetic/synthesize.py", {"synthetic"}),
    "fetch": ("r1omni/hub.py", {"hub"}),
    "ingest": ("r1omni/corpora/ingestion/ingest.py", {"ingest", "corpora"}),
    "validate": ("r1omni/corpora/validation.py", {"corpora", "held_out", "ingest", "validation"}),
    "base": ("r1omni/base_model/stage.py", {"base", "engine", "ingest", "media", "model"}),
    "features": ("r1omni/model/features.py", {"ingest"}),
    "sets": ("r1omni/corpora/roles.py", {"corpora"}),
    "cold_start": ("r1omni/training/sft.py", {"cold_start", "engine"}),
    "label_sft": ("r1omni/training/sft.py", {"engine", "held_out", "label_sft"}),
    "grpo": ("r1omni/training/grpo.py", {"engine", "grpo", "held_out"}),
    "predict": ("r1omni/evaluation/predict.py", {"predict"}),
    "held_out": ("r1omni/evaluation/predict_held_out.py", {"held_out", "predict"}),
    "measures": ("r1omni/judges/measuring.py", {"corpora", "grpo", "ingest", "media"}),
    "judges": ("r1omni/judges/stage.py", {"grpo", "judges"}),
    "audit": ("r1omni/evaluation/audit/audit.py", {"audit", "predict", "score"}),
    "score": ("r1omni/evaluation/score.py", {"model", "score"}),
    "report": ("r1omni/evaluation/report/report.py", {"corpora", "ingest", "media", "report"}),
    "cards": ("r1omni/cards/cards.py", {"corpora"}),
    "register": ("r1omni/tracking/registry.py", {"tracking"}),
}


@cache
def dvc_stages(repo: Path) -> dict:
    return yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]


def dvc_stage(repo: Path, name: str) -> dict:
    stage = dvc_stages(repo)[name]
    return stage.get("do", stage)


def imported_files(repo: Path, start: str) -> set[str]:
    """The files of r1omni that `start` imports, itself and what those import included."""
    found: set[str] = set()
    queue = [start]
    while queue:
        file = queue.pop()
        if file not in found:
            found.add(file)
            queue += imports_of(repo, file)
    return found


@cache
def imports_of(repo: Path, file: str) -> list[str]:
    """The files of r1omni that one file names in its imports."""
    found = []
    for node in ast.walk(ast.parse((repo / file).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            path = name.replace(".", "/")
            for candidate in (f"{path}.py", f"{path}/__init__.py"):
                if name.startswith("r1omni") and (repo / candidate).is_file():
                    found.append(candidate)
    return found


def test_every_stage_is_listed_here(repo):
    assert set(dvc_stages(repo)) == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_deps_cover_the_modules_it_imports(repo, name):
    module, _ = STAGES[name]
    deps = [str(dep) for dep in dvc_stage(repo, name)["deps"]]
    uncovered = {
        file
        for file in imported_files(repo, module) - NOT_DEPENDENCIES
        if not file.startswith("r1omni/tracking/")
        and not any(file == dep or file.startswith(f"{dep}/") for dep in deps)
    }
    assert uncovered == set()


@pytest.mark.parametrize("name", ["base", "cold_start", "label_sft", "grpo"])
def test_no_state_is_resumed_after_a_change_of_code_that_decides_the_result(repo, name):
    """What a training imports is in its fingerprint, but for what only finds files and params."""
    hashed = {f"r1omni/{file}" for file in files_of(RECIPE_CODE)}
    finding = {"r1omni/corpora/paths.py"}
    unhashed = imported_files(repo, STAGES[name][0]) - hashed - NOT_DEPENDENCIES - finding
    assert {file for file in unhashed if not file.startswith("r1omni/tracking/")} == set()


def test_an_empty_hub_is_no_stage_and_the_papers_is_what_its_base_reads(repo, params):
    assert params.hub == {}
    paper = read_params(repo / "params/paper.yaml")
    assert paper.base.source == paper.hub["base"].folder
    assert dvc_stage(repo, "fetch")["outs"] == ["${item.folder}"]


def test_only_evaluation_reads_the_side_files(repo):
    written = dvc_stages(repo)
    reading = {name for name in written if "data/truth" in str(dvc_stage(repo, name))}
    assert reading == {"synthesize", "score", "report"}
    for name in ("score", "report"):
        assert "data/truth" in dvc_stage(repo, name)["deps"]
    assert "data/truth" not in str(dvc_stage(repo, "synthesize")["deps"])


def test_nothing_but_fetch_writes_to_the_users_folder(repo, params):
    written = dvc_stages(repo)
    writing = {name for name in written if "data/raw" in str(dvc_stage(repo, name)["outs"])}
    assert writing == set()  # fetch writes to the folders that `hub` names
    assert all(Path("data/raw") not in corpus.root.parents for corpus in params.corpora.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_code_deps_exist(repo, name):
    for dep in dvc_stage(repo, name)["deps"]:
        assert not str(dep).startswith("r1omni/") or (repo / dep).exists(), dep


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_params_are_the_sections_that_it_reads(repo, name):
    _, sections = STAGES[name]
    named = {str(param).split(".")[0] for param in dvc_stage(repo, name).get("params", [])}
    assert named == sections


def test_no_finished_stage_runs_again_for_what_changes_time_and_memory_alone(repo):
    """No stage names a key of `machine`, nor a file of r1omni/machine."""
    written = dvc_stages(repo)
    named = [str(x) for name in written for key in ("deps", "params")
             for x in dvc_stage(repo, name).get(key, [])]  # fmt: skip
    assert len(named) > 100
    assert [x for x in named if x.split(".")[0] == "machine" or "r1omni/machine" in x] == []


def sections_read(function) -> set[str]:
    """The sections of the params that a command's own code takes: read.X, read_params(...).X."""
    tree = ast.parse(inspect.getsource(function))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("read", "read_params(params)")
        and node.attr not in ("machine", "model_dump")  # machine decides no result
    }


@pytest.mark.parametrize("name", STAGES)
def test_the_table_above_is_what_the_commands_code_takes(repo, name):
    """dvc.yaml tells what `_sft` takes, the corpora's roots and folds, and what is fetched.

    Where a corpus lies is no param of `features`: its manifest tells what is in the clips.
    """
    command = dvc_stage(repo, name)["cmd"].split()[3].replace("-", "_")
    _, sections = STAGES[name]
    if name in ("cold_start", "label_sft"):
        read = sections_read(stages.training._sft) - ({"cold_start", "label_sft"} - {name})
        read -= {"held_out"} if name == "cold_start" else set()
    else:
        (callback,) = [c.callback for c in stages.stages.registered_commands
                       if c.callback.__name__ == command]  # fmt: skip
        read = sections_read(callback)
    told = {"ingest": {"corpora"}, "fetch": {"hub"}}.get(name, set())
    written = {"tracking"} if name != "register" else set()  # where it logs changes no result
    if "limits" in read:  # of one clip; their pixels decide which clips are taken
        read = read - {"limits"} | {"ingest"}
    written |= {"corpora"} if name == "features" else set()
    assert sections == (read - written) | told


def test_every_command_in_dvc_yaml_exists(repo):
    commands = {c.name or c.callback.__name__ for c in stages.stages.registered_commands}
    for name in STAGES:
        *program, command = dvc_stage(repo, name)["cmd"].split()[:4]
        assert program == ["python", "-m", "r1omni"]  # a queued experiment's own code
        assert command in commands


def test_the_stage_commands_document_themselves():
    for command in stages.stages.registered_commands:
        assert inspect.getdoc(command.callback)
