"""From a number of Table 1 to what made it; and what does not agree is noticed."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from made_up_model import held_out_table
from made_up_project import ANSWERS, DFEW, write_answers, write_lock
from typer.testing import CliRunner, Result

from r1omni.cards.dvc_lock import dvc_hash
from r1omni.cards.facts import read_corpora
from r1omni.cards.trace import find_cells, open_project, trace_cell
from r1omni.cli import app
from r1omni.config import TrackingParams
from r1omni.corpora.clip import write_manifest, write_rejects
from r1omni.evaluation.results import read_metrics
from r1omni.tracking.provenance import content_hash
from r1omni.tracking.registry import run_register

METRICS = Path("data/reports/metrics.json")
TRACKING = TrackingParams(
    uri="sqlite:///mlflow.db",
    artifacts=None,
    experiment="r1omni",
    system_metrics=False,
    registered_model="r1-omni",
)


def trace(project: Path, *words: str) -> tuple[str, list[str]]:
    """What `r1omni trace` prints, and what does not agree."""
    corpora = read_corpora(project / "data/manifests", project / "data/rejects", DFEW)
    cells = find_cells(read_metrics(project / METRICS), words)
    opened = open_project(project, corpora, TRACKING)
    trails = [trace_cell(cell, opened, project / METRICS) for cell in cells]
    text = "\n".join(line for trail in trails for line in trail.lines)
    return text, [problem for trail in trails for problem in trail.problems]


def test_a_number_leads_to_files_code_params_parents_and_clips(project: Path) -> None:
    text, problems = trace(project, "75.0")
    assert problems == []
    content = content_hash(project / "data/checkpoints/grpo")
    for line in (
        "grpo · dfew · WAR = 75.0 %",
        "recomputed     3 of 4 right; WAR 0.75 ✓",
        f"data/checkpoints/grpo, content hash {content}",
        "grpo: seed 7, fold 1, code c0dec0dec0de, params grpo-params",
        "cold_start: seed 7, code c0dec0dec0de, params cold_start-params",
        "base: seed 7, code c0dec0dec0de, params base-params",
        'params {"lr": 0.5',
        "2 of the 2 train clips of dfew, with their hashes in data/manifests/dfew.parquet",
        "4 of the 4 test clips of dfew, with their hashes in data/manifests/dfew.parquet",
        "registered     no receipt",
    ):
        assert line in text, line
    assert text.count("as in dvc.lock ✓") == 4  # metrics, predictions, checkpoint, manifest


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["75.0"], ["war"]),
        (["75.0%"], ["war"]),
        (["66.7"], ["uar"]),
        (["66.67"], ["uar"]),
        (["0.6667"], ["uar"]),
        (["100.0"], ["format_rate"]),
        (["grpo", "DFEW", "UAR"], ["uar"]),
    ],
)
def test_a_cell_is_found_by_its_number_as_written_and_by_its_place(
    project: Path, words: list[str], found: list[str]
) -> None:
    assert [cell.key for cell in find_cells(read_metrics(METRICS), words)] == found


def test_a_number_of_two_cells_lists_both(project: Path) -> None:
    metrics = json.loads(METRICS.read_text())
    metrics["twin"] = metrics["grpo"]
    METRICS.write_text(json.dumps(metrics))
    cells = find_cells(read_metrics(METRICS), ["75.0"])
    assert [cell.model for cell in cells] == ["grpo", "twin"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["74.9"], r"74.9 is in no cell of Table 1; nearest: grpo · dfew · WAR = 75.0 % "),
        (["65.83"], "65.83 was not measured here: it is the paper's .*R1-Omni on dfew, WAR"),
        (["grpo", "mafw", "war"], "grpo mafw war: not measured; known: grpo dfew"),
        (["best"], "best: expected a number"),
        (["grpo", "dfew"], "grpo dfew: expected a number"),
    ],
)
def test_what_is_nowhere_is_one_clear_error(project: Path, words: list[str], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        find_cells(read_metrics(METRICS), words)


def test_a_predictions_file_that_was_tampered_with_is_noticed(project: Path) -> None:
    write_answers(project / "data", [*ANSWERS[:3], ("angry", "angry")])
    text, problems = trace(project, "75.0")
    assert "4 of 4 right; WAR 1.0 ✗ DOES NOT AGREE" in text
    assert [problem.split(": ")[1] for problem in problems] == ["hash", "recomputed"]


def test_a_checkpoint_that_was_tampered_with_is_noticed(project: Path) -> None:
    (project / "data/checkpoints/grpo/model.safetensors").write_bytes(b"GRPO")
    _, problems = trace(project, "75.0")
    assert [problem.split(": ")[1] for problem in problems] == ["hash"]
    assert "data/checkpoints/grpo: MD5" in problems[0]


def test_predictions_of_another_checkpoint_are_noticed(project: Path) -> None:
    path = project / "data/checkpoints/grpo/provenance.json"
    path.write_text(path.read_text().replace("grpo-params", "later-params"))
    write_lock(project)
    _, problems = trace(project, "75.0")
    assert len(problems) == 1
    assert "asked model: the predictions' note is of this checkpoint" in problems[0]


def test_a_stage_that_read_an_older_file_is_noticed(project: Path) -> None:
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    lock["stages"]["score"]["deps"][0]["md5"] = "0" * 32
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    _, problems = trace(project, "75.0")
    assert len(problems) == 1
    assert "score read another data/predictions/grpo.parquet; run `dvc repro`" in problems[0]


def test_test_clips_that_are_not_the_manifests_are_noticed(project: Path) -> None:
    write_answers(project / "data", [("happy", "happy"), *ANSWERS[1:3], ("fear", "sad")])
    write_lock(project)
    _, problems = trace(project, "75.0")
    assert [problem.split(": ")[1] for problem in problems] == ["test clips"]


def test_the_registered_version_is_named_and_compared(project: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, "mlflow.db")
    training = Path("data/training/grpo")
    training.mkdir(parents=True)
    (training / "curves.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    run_register(
        Path("data/checkpoints/grpo"), METRICS, training, Path("data/predictions/grpo.parquet"),
        held_out_table(Path("data/held_out/grpo.parquet"), "grpo", 1, 2),
        Path("data/registry/grpo.json"), name="grpo", test_sets=[], tracking=TRACKING,
    )  # fmt: skip
    text, problems = trace(project, "75.0")
    assert problems == []
    assert "registered     models:/r1-omni/1, run " in text
    assert "its metric     WAR 0.75 ✓" in text
    METRICS.write_text(METRICS.read_text().replace('"war": 0.75', '"war": 0.7501'))
    _, problems = trace(project, "75.01")
    assert [problem.split(": ")[1] for problem in problems] == ["hash", "recomputed", "its metric"]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["trace", *words])


def test_the_commands_exit_code_is_1_where_something_does_not_agree(
    project: Path, repo: Path
) -> None:
    params = yaml.safe_load((repo / "params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for key in ("reasoning", "mafw", "ravdess"):  # params name them
        write_manifest([], Path(f"data/manifests/{key}.parquet"))
        write_rejects([], Path(f"data/rejects/{key}.parquet"))
    done = run("75.0")
    assert (done.exit_code, done.exception) == (0, None)
    METRICS.write_text(METRICS.read_text().replace('"war": 0.75', '"war": 0.76'))
    done = run("76.0")
    assert done.exit_code == 1
    assert done.stderr.startswith("\nDOES NOT AGREE (2):\n✗ grpo · dfew · WAR = 76.0 %")


def test_a_folders_hash_is_dvcs_own(tmp_path: Path) -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for name in ("b.txt", "a/z.txt", "a-b/c.txt", "a.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        tree.add(tuple(name.split("/")), None, HashInfo("md5", dvc_hash(path)))
    tree.digest()
    assert dvc_hash(tmp_path / "b.txt") == "ce506ace22f28ac2bc4f933d4cf989fd"
    assert dvc_hash(tmp_path) == tree.hash_info.value
