import json
from pathlib import Path
from typing import Any

import pytest

from r1omni.config import TrackingParams
from r1omni.tracking.promotion import run_promote
from r1omni.tracking.registry import model_directory, read_receipt, run_register
from r1omni.tracking.runs import Description, Run, open_run
from r1omni.tracking.store import open_client


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
    assert read_receipt(paths["receipt"]).version == 2
    client, _ = open_client(tracking)
    assert len(client.search_model_versions("name = 'r1-omni'")) == 2
    assert client.get_registered_model("r1-omni").aliases == {}, "registering is not promoting"


def test_a_version_carries_its_provenance_and_its_evaluation(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo", war=0.625)
    run_register(**paths, name="grpo", tracking=tracking)
    receipt = read_receipt(paths["receipt"])
    client, _ = open_client(tracking)
    version = client.get_model_version("r1-omni", "1")
    kept = {key: version.tags[key] for key in ("model", "stage", "mode", "fold", "seed")}
    assert kept == {
        "model": "grpo",
        "stage": "grpo",
        "mode": "reasoned",
        "fold": "1",
        "seed": "7",
    }
    assert version.tags["content_hash"] == receipt.content_hash
    assert version.tags["eval/ravdess/war"] == "0.6250"
    metrics = client.get_run(receipt.run_id).data.metrics
    assert metrics["eval/ravdess/war"] == 0.625
    assert metrics["eval/ravdess/war_ci_low"] == 0.3
    assert metrics["eval/ravdess/recall/happy"] == 0.7
    assert metrics["train/loss"] == 1 / 40
    assert client.get_run(receipt.run_id).data.params == {"grpo.lr": "0.1"}


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
    assert read_receipt(paths["receipt"]).run_id == trained_run.info.run_id


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
    history = client.get_metric_history(read_receipt(paths["receipt"]).run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 41))
    assert [point.value for point in history[:3]] == [1.0, 0.5, 1 / 3]


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
        read_receipt(paths["receipt"]).run_id,
        "FINISHED",
    )
    history = client.get_metric_history(only.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 41))
    assert not state.exists()


def test_the_bytes_of_a_checkpoint_are_on_disk_once(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo")
    run_register(**paths, name="grpo", tracking=tracking)
    folder = model_directory("models:/r1-omni/1", tracking)
    assert folder.is_relative_to(project / "mlartifacts")
    registered = folder / "model.safetensors"
    assert registered.samefile(paths["checkpoint"] / "model.safetensors")
    # The next training replaces the file; the version keeps what was registered.
    trained("grpo", weights=b"new")
    assert registered.read_bytes() == b"w" * 1000


def test_scoring_anew_updates_the_evaluation(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    run_register(**trained("grpo", war=0.5), name="grpo", tracking=tracking)
    paths = trained("grpo", war=0.75)
    run_register(**paths, name="grpo", tracking=tracking)
    client, _ = open_client(tracking)
    receipt = read_receipt(paths["receipt"])
    assert receipt.version == 1
    assert client.get_run(receipt.run_id).data.metrics["eval/ravdess/war"] == 0.75
    assert client.get_model_version("r1-omni", "1").tags["eval/ravdess/war"] == "0.7500"


def test_an_alias_moves_only_to_a_better_version(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    decisions = []
    for weights, war in ((b"1", 0.5), (b"1", 0.5), (b"2", 0.5), (b"3", 0.625), (b"4", 0.25)):
        paths = trained("grpo", weights=weights, war=war)
        run_register(**paths, name="grpo", tracking=tracking)
        decisions.append(run_promote(paths["receipt"], tracking=tracking))
    assert [decision.promoted for decision in decisions] == [True, False, False, True, False]
    assert "already champion" in decisions[1].reason
    assert "0.2500 is not above 0.6250 of version 3" in decisions[4].reason
    champion = model_directory("models:/r1-omni@champion", tracking)
    assert (champion / "model.safetensors").read_bytes() == b"3"


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
        run_promote(paths["receipt"], tracking=tracking)
