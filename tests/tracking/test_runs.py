import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from r1omni.config import TrackingParams
from r1omni.tracking.curves import read_curves
from r1omni.tracking.provenance import content_hash, flatten
from r1omni.tracking.registry import _training_run
from r1omni.tracking.runs import Run, open_run
from r1omni.tracking.store import open_client
from r1omni.tracking.store_runs import Description, deliver_training


def all_runs(tracking: TrackingParams) -> list[Any]:
    client, experiment = open_client(tracking)
    return list(client.search_runs([experiment]))


def steps(tracking: TrackingParams, run_id: str, key: str = "train/loss") -> list[int]:
    client, _ = open_client(tracking)
    return [point.step for point in client.get_metric_history(run_id, key)]


def test_a_run_says_what_was_trained_on_what(
    project: Path, tracking: TrackingParams, manifest: Path
) -> None:
    state = project / ".state" / "grpo-run.json"
    params = {"grpo": {"lr": 0.1, "reward_weights": {"format": 1.0}}}
    with open_run(
        "grpo",
        tracking=tracking,
        params=params,
        datasets=[manifest],
        tags={"fold": "1"},
        state=state,
    ) as run:
        run.log(1, {"train/loss": 0.5})
    (found,) = all_runs(tracking)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "grpo"
    assert found.data.params == {"grpo.lr": "0.1", "grpo.reward_weights.format": "1.0"}
    assert found.data.tags["fold"] == "1"
    assert found.data.metrics == {"train/loss": 0.5}
    (dataset,) = [item.dataset for item in found.inputs.dataset_inputs]
    assert dataset.name == "dfew"
    assert json.loads(dataset.profile) == {"num_rows": 3}
    assert json.loads(dataset.source) == {"uri": str(manifest)}
    assert not state.exists(), "a finished run is never continued"


def test_a_corpus_of_annotations_is_a_dataset_under_its_folders_name(
    project: Path, tracking: TrackingParams, manifest: Path
) -> None:
    generic = project / "generic/annotations.json"
    generic.parent.mkdir()
    generic.write_text('[{"video": "a.mp4"}, {"video": "b.mp4"}]')
    told = {"params": {}, "datasets": [manifest, generic], "state": project / "run.json"}
    with open_run("base", tracking=tracking, **told):
        pass
    (found,) = all_runs(tracking)
    rows = {d.dataset.name: json.loads(d.dataset.profile) for d in found.inputs.dataset_inputs}
    assert rows == {"dfew": {"num_rows": 3}, "generic": {"num_rows": 2}}


def test_points_are_sent_in_batches(project: Path, tracking: TrackingParams) -> None:
    with open_run("grpo", tracking=tracking, params={}, state=project / "run.json") as run:
        for step in range(1, 50):
            run.log(step, {"train/loss": 1.0})
        (found,) = all_runs(tracking)
        assert found.data.metrics == {}
        run.log(50, {"train/loss": 1.0})
        assert len(steps(tracking, found.info.run_id)) == 50
        run.log(51, {"train/loss": 1.0})
    assert len(steps(tracking, found.info.run_id)) == 51


def test_more_points_than_one_transaction_takes_all_arrive(
    project: Path, tracking: TrackingParams
) -> None:
    with open_run("grpo", tracking=tracking, params={}, state=project / "run.json") as run:
        for step in range(1, 31):
            run.log(step, {f"m/{number}": float(step) for number in range(70)})
    (found,) = all_runs(tracking)
    assert len(found.data.metrics) == 70
    assert steps(tracking, found.info.run_id, "m/69") == list(range(1, 31))


def test_a_killed_run_goes_on_without_double_steps(project: Path, tracking: TrackingParams) -> None:
    state = project / "run.json"
    killed = Run(Description("grpo", {"lr": 1}, (), {}), tracking, state)
    for step in range(1, 36):
        killed.log(step, {"train/loss": 1 / step})
    killed.flush(at_once=True)  # and then nothing more: as after SIGKILL
    with open_run("grpo", tracking=tracking, params={"lr": 1}, state=state) as run:
        for step in range(21, 41):  # the last training state was that of step 20
            run.log(step, {"train/loss": 1 / step})
    (found,) = all_runs(tracking)
    assert steps(tracking, found.info.run_id) == list(range(1, 41))
    assert found.info.status == "FINISHED"


def test_other_params_begin_another_run(project: Path, tracking: TrackingParams) -> None:
    state = project / "run.json"
    with (
        pytest.raises(ZeroDivisionError),
        open_run("grpo", tracking=tracking, params={"lr": 1}, state=state) as run,
    ):
        run.log(1, {"train/loss": 1 / 0})
    with open_run("grpo", tracking=tracking, params={"lr": 2}, state=state) as run:
        run.log(1, {"train/loss": 3.0})
    assert sorted(run.info.status for run in all_runs(tracking)) == ["FAILED", "FINISHED"]


def test_a_knob_changed_in_between_goes_on_in_the_same_run(
    project: Path, tracking: TrackingParams
) -> None:
    state = project / "run.json"
    engine = {"dtype": "fp32"}, {"threads": 1}
    killed = Run(Description("grpo", engine[0], (), {}, engine[1]), tracking, state)
    killed.log(1, {"train/loss": 1.0})
    killed.flush(at_once=True)
    with open_run(
        "grpo", tracking=tracking, params=engine[0], machine={"threads": 2}, state=state
    ) as run:
        run.log(2, {"train/loss": 1.0})
    (found,) = all_runs(tracking)
    assert steps(tracking, found.info.run_id) == [1, 2]
    assert found.data.params == {"dtype": "fp32", "threads": "1"}


def test_a_killed_training_that_was_given_up_is_closed_when_another_recipe_starts(
    project: Path, tracking: TrackingParams
) -> None:
    state = project / "run.json"
    killed = Run(Description("grpo", {"lr": 1}, (), {}), tracking, state)
    killed.flush(at_once=True)
    (left,) = all_runs(tracking)
    assert left.info.status == "RUNNING"
    with open_run("grpo", tracking=tracking, params={"lr": 2}, state=state):
        pass
    assert {run.data.params["lr"]: run.info.status for run in all_runs(tracking)} == {
        "1": "KILLED",
        "2": "FINISHED",
    }


def test_a_store_that_was_replaced_begins_another_run(
    project: Path, tracking: TrackingParams
) -> None:
    state = project / "run.json"
    killed = Run(Description("grpo", {}, (), {}), tracking, state)
    killed.flush()
    text = state.read_text().replace(json.loads(state.read_text())["run_id"], "0" * 32)
    state.write_text(text)
    with open_run("grpo", tracking=tracking, params={}, state=state) as run:
        run.log(1, {"train/loss": 1.0})
    assert len(all_runs(tracking)) == 2


def test_training_goes_on_without_the_store_and_the_curves_come_later(
    project: Path, tracking: TrackingParams
) -> None:
    (project / "blocked").write_text("a file where the store's folder should be")
    blocked = tracking.model_copy(update={"uri": "sqlite:///blocked/mlflow.db"})
    with open_run("grpo", tracking=blocked, params={}, state=project / "run.json") as run:
        for step in range(1, 121):
            run.log(step, {"train/loss": 1.0})
        (project / "blocked").unlink()
        (project / "blocked").mkdir()
        (project / "mlflow.db").rename(project / "blocked" / "mlflow.db")
    (found,) = all_runs(blocked)
    assert steps(blocked, found.info.run_id) == list(range(1, 121))


def test_points_whose_arrival_was_not_confirmed_are_not_sent_again(
    project: Path, tracking: TrackingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store takes the points, but its response is lost."""
    with open_run("grpo", tracking=tracking, params={}, state=project / "run.json") as run:
        run.log(1, {"train/loss": 1.0})
        run.flush()
        real, lost = run._client.log_batch, []

        def cut_off(*arguments: object, **more: object) -> None:
            real(*arguments, **more)
            if not lost:
                lost.append(True)
                raise OSError("connection reset by peer")

        monkeypatch.setattr(run._client, "log_batch", cut_off)
        run.log(2, {"train/loss": 1.0})
        assert not run.flush()
        run.log(3, {"train/loss": 1.0})
    assert lost
    (found,) = all_runs(tracking)
    assert steps(tracking, found.info.run_id) == [1, 2, 3]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_store_that_fails_at_the_end_is_asked_again_or_owed_the_rest(
    project: Path, tracking: TrackingParams, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """After one failure the run is complete; after two, `register` completes the same run."""
    checkpoint, training, state = project / "checkpoint", project / "training", project / "run.json"
    for folder in (checkpoint, training):
        folder.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (training / "curves.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    left = [failures]
    with open_run("grpo", tracking=tracking, params={}, state=state) as run:
        real = run._client.set_tag

        def flaky(*arguments: str) -> None:
            if left[0]:
                left[0] -= 1
                raise OSError("database is locked")
            real(*arguments)

        monkeypatch.setattr(run._client, "set_tag", flaky)
        run.log(1, {"train/loss": 1.0})
        run.finish(checkpoint, training)
    assert state.exists() == (failures == 2)
    client, experiment = open_client(tracking)
    tags = {"content_hash": content_hash(checkpoint), "model": "grpo"}
    completed = _training_run(client, experiment, tags, {}, state)
    (only,) = all_runs(tracking)
    assert (only.info.run_id, only.info.status) == (completed, "FINISHED")
    assert only.data.tags["content_hash"] == tags["content_hash"]
    assert steps(tracking, completed) == [1]
    assert not state.exists()


def test_values_that_are_not_finite_become_gaps(project: Path, tracking: TrackingParams) -> None:
    with open_run("grpo", tracking=tracking, params={}, state=project / "run.json") as run:
        run.log(1, {"train/loss": math.inf})
        run.log(2, {"train/loss": math.nan})
        run.log(3, {"train/loss": 0.25})
    (found,) = all_runs(tracking)
    client, _ = open_client(tracking)
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3]
    assert [math.isnan(point.value) for point in history] == [True, True, False]


def test_delivery_from_files_adds_only_what_is_missing(
    project: Path, tracking: TrackingParams, trained: Any
) -> None:
    paths = trained("grpo")
    with open_run("grpo", tracking=tracking, params={}, state=project / "run.json") as run:
        for step in range(1, 31):
            run.log(step, {"train/loss": 1 / step})
        run.finish(paths["checkpoint"], paths["training"])
    (found,) = all_runs(tracking)
    client, _ = open_client(tracking)
    assert steps(tracking, found.info.run_id) == list(range(1, 41))
    assert deliver_training(client, found.info.run_id, paths["training"]) == 0
    table = client.load_table(found.info.experiment_id, "rollouts.json", [found.info.run_id])
    assert list(table["reward"]) == [0.0, 2.0]
    assert found.data.tags["content_hash"] == content_hash(paths["checkpoint"])


def test_a_broken_line_of_the_curves_is_named(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "train/loss": NaN}\n{"train/loss": 2}\n')
    with pytest.raises(ValueError, match=r"curves\.jsonl:2: expected"):
        read_curves(path)
    assert read_curves(tmp_path / "absent.jsonl") == []


def test_nested_params_are_named_by_their_path() -> None:
    values = {"grpo": {"lr": 0.1, "reward_weights": {"format": 1.0}}, "seed": 3}
    expected = {"grpo.lr": "0.1", "grpo.reward_weights.format": "1.0", "seed": "3"}
    assert dict(flatten(values)) == expected


def test_system_metrics_are_recorded_beside_the_curves(
    project: Path, tracking: TrackingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    watched = tracking.model_copy(update={"system_metrics": True})
    with open_run("grpo", tracking=watched, params={}, state=project / "run.json") as run:
        run.log(1, {"train/loss": 1.0})
        time.sleep(1.0)
    (found,) = all_runs(tracking)
    assert "system/cpu_utilization_percentage" in found.data.metrics
