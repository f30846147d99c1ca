import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from r1omni.config import TrackingParams
from r1omni.tracking.artifacts import MIN_LINKED_BYTES
from r1omni.tracking.provenance import MeasuredSet
from r1omni.tracking.registry import (
    model_directory,
    read_receipt,
    registered_version,
    run_register,
)
from r1omni.tracking.runs import Run, open_run
from r1omni.tracking.store import StoreUnreachable, open_client
from r1omni.tracking.store_runs import Description
from r1omni.training.checkpoints import TIMES

LARGE = b"w" * MIN_LINKED_BYTES


def version_of(receipt: Path, tracking: TrackingParams) -> Any:
    """The registered version of a receipt."""
    client, _ = open_client(tracking)
    return registered_version(client, read_receipt(receipt))


def test_the_same_checkpoint_is_the_same_version(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo")
    run_register(**paths, name="grpo", tracking=tracking)
    first = paths["receipt"].read_bytes()
    run_register(**paths, name="grpo", tracking=tracking)
    assert paths["receipt"].read_bytes() == first
    paths = trained("grpo", weights=b"v" * 1000)
    run_register(**paths, name="grpo", tracking=tracking)
    assert int(version_of(paths["receipt"], tracking).version) == 2
    client, _ = open_client(tracking)
    assert len(client.search_model_versions("name = 'r1-omni'")) == 2
    assert client.get_registered_model("r1-omni").aliases == {}, "registering is not promoting"


def test_card_and_bom_lie_beside_the_checkpoint_whose_hash_they_do_not_change(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths, documents = trained("grpo"), project / "documents"
    documents.mkdir()
    for text in ("first", "scored again"):
        (documents / "README.md").write_text(text)
        run_register(**paths, name="grpo", tracking=tracking, documents=documents)
    folder = model_directory("models:/r1-omni/1", tracking)
    assert folder.name == "checkpoint"
    assert (folder.parent / "README.md").read_text() == "scored again"
    assert (folder.parent / "MLmodel").is_file()


def test_a_version_carries_its_provenance_and_its_evaluation(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo", war=0.625)
    run_register(**paths, name="grpo", tracking=tracking)
    receipt = read_receipt(paths["receipt"])
    client, _ = open_client(tracking)
    version = client.get_model_version("r1-omni", "1")
    held_out = version.tags.pop("held_out")
    assert version.tags == {
        "model": "grpo",
        "data": "synthetic",
        "seed": "7",
        "content_hash": receipt.content_hash,
    }
    about = {"data": "synthetic", "parameters": "1034567", "code": "c0de", "params_hash": "5a5a"}
    about |= {"model": "grpo", "stage": "grpo", "mode": "reasoned", "fold": "1", "seed": "7"}
    run = client.get_run(version.run_id)
    assert {key: run.data.tags[key] for key in about} == about
    assert json.loads(run.data.tags["corpora"]) == {"dfew": {"data": "synthetic", "shortcut": 0.5}}
    tested = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
    assert tested == {"ravdess": ("5e7" * 20)[:32], "held_out": held_out[:32]}
    assert version.description.startswith(
        "WAR/UAR ravdess 62.5/40.0, held_out 60.0/60.0 · grpo, answers reasoned · trained on "
        "synthetic corpora (rendered faces) · 1.0 M parameters · seed 7 · code c0de · params 5a5a"
    )
    metrics = client.get_run(version.run_id).data.metrics
    assert metrics["eval/ravdess/war"] == 0.625
    assert metrics["eval/ravdess/war_ci_low"] == 0.3
    assert metrics["eval/ravdess/recall/happy"] == 0.7
    assert metrics["train/loss"] == 1 / 40
    assert client.get_run(version.run_id).data.params == {"grpo.lr": "0.1"}


def test_the_version_belongs_to_the_run_that_trained_it(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo")
    with open_run("grpo", tracking=tracking, params={}, state=project / "run.json") as run:
        run.log(1, {"train/loss": 1.0})
        run.finish(paths["checkpoint"], paths["training"])
    run_register(**paths, name="grpo", tracking=tracking)
    client, experiment = open_client(tracking)
    (trained_run,) = client.search_runs([experiment])
    assert version_of(paths["receipt"], tracking).run_id == trained_run.info.run_id


def test_what_a_lost_store_missed_is_delivered_by_register(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo")
    (project / "blocked").write_text("a file where the store's folder should be")
    blocked = tracking.model_copy(update={"uri": "sqlite:///blocked/mlflow.db"})
    with open_run("grpo", tracking=blocked, params={}, state=project / "run.json") as run:
        run.log(1, {"train/loss": 1.0})
        run.finish(paths["checkpoint"], paths["training"])
    run_register(**paths, name="grpo", tracking=tracking)
    client, _ = open_client(tracking)
    history = client.get_metric_history(version_of(paths["receipt"], tracking).run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 41))
    assert [point.value for point in history[:3]] == [1.0, 0.5, 1 / 3]


@pytest.mark.parametrize("trained_it", [True, False])
def test_the_seconds_that_a_lost_store_missed_are_delivered_by_register(
    project: Path, tracking: TrackingParams, trained: Any, trained_it: bool
) -> None:
    """Seconds of another training are not sent: its checkpoint is another one."""
    paths, state = trained("grpo"), project / ".state/grpo.run.json"
    (project / "blocked").write_text("a file where the store's folder should be")
    blocked = tracking.model_copy(update={"uri": "sqlite:///blocked/mlflow.db"})
    with open_run("grpo", tracking=blocked, params={}, state=state) as run:
        run.log(1, {"train/loss": 1.0, "time/sample": 2.5})
        run.finish(paths["checkpoint"], paths["training"])
    (project / ".state/grpo").mkdir()
    (project / ".state/grpo" / TIMES).write_text('{"step": 1, "time/sample": 2.5}\n')
    if not trained_it:
        paths = trained("grpo", weights=b"another")
    for _ in range(2):
        run_register(**paths, name="grpo", tracking=tracking, state=state)
    client, _ = open_client(tracking)
    run_id = version_of(paths["receipt"], tracking).run_id
    history = client.get_metric_history(run_id, "time/sample")
    assert [(point.step, point.value) for point in history] == [(1, 2.5)] * trained_it


def test_a_run_that_lost_its_store_before_the_end_is_completed_by_register(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths, state = trained("grpo"), project / "run.json"
    begun = Run(Description("grpo", {"lr": 1}, (), {}), tracking, state)
    for step in (1, 2, 3):
        begun.log(step, {"train/loss": 1 / step})
    assert begun.flush(at_once=True)  # and then nothing more: as after SIGKILL
    (project / "blocked").write_text("a file where the store's folder should be")
    blocked = tracking.model_copy(update={"uri": "sqlite:///blocked/mlflow.db"})
    with open_run("grpo", tracking=blocked, params={"lr": 1}, state=state) as run:
        run.log(4, {"train/loss": 1 / 4})
        run.finish(paths["checkpoint"], paths["training"])
    run_register(**paths, name="grpo", tracking=tracking, state=state)
    client, experiment = open_client(tracking)
    (only,) = client.search_runs([experiment])
    assert (only.info.run_id, only.info.status) == (
        version_of(paths["receipt"], tracking).run_id,
        "FINISHED",
    )
    history = client.get_metric_history(only.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 41))
    assert not state.exists()


def test_the_bytes_of_a_checkpoint_are_on_disk_once(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo", weights=LARGE)
    (paths["checkpoint"] / "model.safetensors").chmod(0o444)  # as DVC does after a stage
    run_register(**paths, name="grpo", tracking=tracking)
    folder = model_directory("models:/r1-omni/1", tracking)
    assert folder.is_relative_to(project / "mlartifacts")
    registered = folder / "model.safetensors"
    assert registered.samefile(paths["checkpoint"] / "model.safetensors")
    # The next training replaces the file; the version keeps what was registered.
    trained("grpo", weights=b"new")
    assert registered.read_bytes() == LARGE


@pytest.mark.parametrize("weights", [b"w" * 1000, LARGE])
def test_editing_a_checkpoint_in_place_leaves_the_registered_version_as_it_was(
    project: Path, tracking: TrackingParams, trained: Any, weights: bytes
) -> None:
    """Small files and writable files (as without DVC) are copied."""
    paths = trained("grpo", weights=weights)
    provenance = paths["checkpoint"] / "provenance.json"
    provenance.chmod(0o444)
    run_register(**paths, name="grpo", tracking=tracking)
    provenance.chmod(0o644)
    for path in (provenance, paths["checkpoint"] / "model.safetensors", paths["predictions"]):
        with path.open("r+b") as file:
            file.write(b"edited")
    folder = model_directory("models:/r1-omni/1", tracking)
    assert (folder / "model.safetensors").read_bytes() == weights
    assert json.loads((folder / "provenance.json").read_text())["stage"] == "grpo"
    (predictions,) = project.glob("mlartifacts/*/artifacts/predictions/grpo.parquet")
    for path in (*folder.iterdir(), predictions):
        assert not path.read_bytes().startswith(b"edited")
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_registered_version_that_was_damaged_is_refused(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    """A linked file shares its bytes with DVC's cache: a forced edit changes both."""
    paths = trained("grpo", weights=LARGE)
    weights = paths["checkpoint"] / "model.safetensors"
    weights.chmod(0o444)
    run_register(**paths, name="grpo", tracking=tracking)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(b"v")
    damaged = r"models:/r1-omni/1: the files in .* are not those that were registered"
    with pytest.raises(ValueError, match=damaged):
        model_directory("models:/r1-omni/1", tracking)
    trained("grpo", weights=LARGE)
    run_register(**paths, name="grpo", tracking=tracking)
    assert model_directory("models:/r1-omni/1", tracking).is_dir(), "registering anew heals it"


def test_receipts_are_equal_bytes_on_every_machine(
    project: Path, empty_store: Path, tracking: TrackingParams, trained: Any
) -> None:
    run_register(**trained("grpo", weights=b"first"), name="grpo", tracking=tracking)
    paths = trained("grpo")
    run_register(**paths, name="grpo", tracking=tracking)
    here = paths["receipt"].read_bytes()
    assert json.loads(here).keys() == {"model", "registered_model", "content_hash"}
    (project / "clone").mkdir()
    shutil.copy(empty_store, project / "clone" / "mlflow.db")
    clone = tracking.model_copy(update={"uri": "sqlite:///clone/mlflow.db"})
    run_register(**paths, name="grpo", tracking=clone)
    assert paths["receipt"].read_bytes() == here
    versions = [int(version_of(paths["receipt"], where).version) for where in (tracking, clone)]
    assert versions == [2, 1]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_project_that_was_copied_or_moved_uses_its_own_files(
    project: Path, tracking: TrackingParams, trained: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    original, other = project / "or#ginal 100%", project / "elsewhere" / "o'ther"
    other.parent.mkdir()
    original.mkdir()
    (project / "mlflow.db").rename(original / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(original))
    run_register(**trained("grpo", weights=b"1"), name="grpo", tracking=tracking)
    before = files_below(original)
    if how == "copied":
        shutil.copytree(original, other)
    else:
        original.rename(other)
    monkeypatch.setenv("DVC_ROOT", str(other))
    first = model_directory("models:/r1-omni/1", tracking)
    assert first.is_relative_to(other / "mlartifacts")
    run_register(**trained("grpo", weights=b"2"), name="grpo", tracking=tracking)
    assert model_directory("models:/r1-omni/2", tracking).is_relative_to(other / "mlartifacts")
    if how == "moved":
        assert not original.exists()
        return
    assert files_below(original) == before
    monkeypatch.setenv("DVC_ROOT", str(original))
    assert model_directory("models:/r1-omni/1", tracking).is_relative_to(original)
    assert files_below(original) == before


def test_a_second_name_of_the_project_moves_nothing(
    project: Path, tracking: TrackingParams, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_register(**trained("grpo"), name="grpo", tracking=tracking)
    before = (project / "mlflow.db").read_bytes()
    link = project.with_name(f"{project.name}-link")
    link.symlink_to(project)
    monkeypatch.setenv("DVC_ROOT", str(link))
    assert model_directory("models:/r1-omni/1", tracking).is_relative_to(project)
    assert (project / "mlflow.db").read_bytes() == before


def test_an_experiment_that_keeps_its_files_elsewhere_is_refused(
    project: Path, tracking: TrackingParams
) -> None:
    client, _ = open_client(tracking)
    client.create_experiment("mine", artifact_location=(project / "big-disk").as_uri())
    with pytest.raises(StoreUnreachable, match=r"'mine' keeps its artifacts in .*/big-disk, not"):
        open_client(tracking.model_copy(update={"experiment": "mine"}))


def test_scoring_anew_updates_the_evaluation(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    run_register(**trained("grpo", war=0.5), name="grpo", tracking=tracking)
    paths = trained("grpo", war=0.75)
    run_register(**paths, name="grpo", tracking=tracking)
    client, _ = open_client(tracking)
    version = version_of(paths["receipt"], tracking)
    assert int(version.version) == 1
    assert client.get_run(version.run_id).data.metrics["eval/ravdess/war"] == 0.75
    assert "ravdess 75.0/40.0" in client.get_model_version("r1-omni", "1").description


def test_what_an_audit_found_is_a_metric_of_run_and_model(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths, key = trained("grpo"), "audit/rationale.reversed_changed"
    run_register(**paths, name="grpo", tracking=tracking, audited={key: 0.02})
    run_register(**paths, name="grpo", tracking=tracking, audited={key: 0.25})  # audited again
    client, _ = open_client(tracking)
    version = client.get_model_version("r1-omni", "1")
    assert client.get_run(version.run_id).data.metrics[key] == 0.25
    (model,) = client.search_logged_models([client.get_run(version.run_id).info.experiment_id])
    measured = client.get_logged_model(model.model_id).metrics
    latest = max((m for m in measured if m.key == key), key=lambda m: m.step)
    assert (latest.value, latest.dataset_digest) == (0.25, None)


def test_each_number_names_the_clips_that_it_was_measured_on(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    """The same WAR on other clips is another number."""
    paths = trained("grpo")
    for digest in ("a" * 64, "a" * 64, "b" * 64):
        paths["test_sets"] = [MeasuredSet("ravdess", digest, 480, Path("ravdess.parquet"))]
        run_register(**paths, name="grpo", tracking=tracking)
    client, _ = open_client(tracking)
    version = version_of(paths["receipt"], tracking)
    (model,) = client.search_logged_models([client.get_run(version.run_id).info.experiment_id])
    measured = client.get_logged_model(model.model_id).metrics
    found = [(m.value, m.dataset_digest) for m in measured if m.key == "eval/ravdess/war"]
    assert sorted(found) == [(0.5, "a" * 32), (0.5, "b" * 32)]
    inputs = client.get_run(version.run_id).inputs.dataset_inputs
    assert {i.dataset.digest for i in inputs if i.dataset.name == "ravdess"} == {
        "a" * 32,
        "b" * 32,
    }


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("r1-omni", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/r1-omni", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/r1-omni/latest", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/r1-omni/99", "not in the registry"),
        ("models:/r1-omni@nobody", "not in the registry"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    project: Path, tracking: TrackingParams, uri: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model_directory(uri, tracking)


def test_bad_inputs_name_the_file(project: Path, tracking: TrackingParams, trained: Any) -> None:
    paths = trained("grpo")
    with pytest.raises(ValueError, match=r"metrics\.json: expected .*cold_start"):
        run_register(**paths, name="cold_start", tracking=tracking)
    paths["metrics"].write_text(json.dumps({"grpo": {}}))
    (paths["checkpoint"] / "provenance.json").write_text("{")
    with pytest.raises(ValueError, match=r"provenance\.json: expected"):
        run_register(**paths, name="grpo", tracking=tracking)
    with pytest.raises(ValueError, match=r"grpo\.json: expected a receipt"):
        read_receipt(paths["receipt"])
