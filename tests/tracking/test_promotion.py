"""The gate in a real registry: who becomes champion, what is refused, and the way back."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1omni.config import PromotionParams, TrackingParams
from r1omni.evaluation.promotion import Decision, promote_first_of, run_promote
from r1omni.tracking.champion import open_champion, run_rollback
from r1omni.tracking.registry import model_directory, run_register
from r1omni.tracking.store import open_client

RULE = PromotionParams(confidence=0.95, bootstrap_samples=500, seed=1, margin=0.02, second=None)


@pytest.fixture
def register(tracking: TrackingParams, trained: Any) -> Callable[..., str]:
    """Registers a made-up model; returns its receipt's path. Each one has weights of its own."""
    weights = iter(range(100))

    def make(name: str = "grpo", **described: Any) -> str:
        paths = trained(name, weights=b"%d" % next(weights), **described)
        run_register(**paths, name=name, tracking=tracking)
        return str(paths["receipt"])

    return make


@pytest.fixture
def promote(tracking: TrackingParams) -> Callable[[str], Decision]:
    return lambda target: run_promote(target, promotion=RULE, tracking=tracking)


def champion_now(tracking: TrackingParams) -> int | None:
    with open_champion(tracking) as champion:
        holder = champion.holder()
    return None if holder is None else holder.number


def receipts(project: Path) -> list[dict[str, Any]]:
    found = sorted(project.glob("mlartifacts/*/artifacts/gate/*.json"), key=lambda p: p.name)
    return [json.loads(path.read_text()) for path in found]


def test_the_champion_moves_to_a_version_that_is_better_with_confidence(
    project: Path, tracking: TrackingParams, register: Any, promote: Any
) -> None:
    outcomes = [promote(register(right=right)).outcome for right in (60, 62, 80, 78, 40)]
    assert outcomes == ["promoted", "kept", "promoted", "kept", "kept"]
    assert promote("3") == Decision("kept", "r1-omni 3 (grpo) is champion already", 3)
    weights = model_directory("models:/r1-omni@champion", tracking) / "model.safetensors"
    assert weights.read_bytes() == b"2"
    kept = receipts(project)
    assert [receipt["outcome"] for receipt in kept] == outcomes
    ((rival,),) = [receipt["rivals"] for receipt in kept if receipt["candidate"]["number"] == 5]
    assert (rival["number"], rival["better"]) == (3, False)
    assert rival["differences"][0]["candidate"] == 0.4
    assert rival["differences"][0]["rival"] == 0.8
    assert kept[0]["rule"]["confidence"] == 0.95


def test_a_version_an_alias_and_a_uri_name_a_candidate(
    tracking: TrackingParams, register: Any, promote: Any
) -> None:
    register(right=60)
    open_client(tracking)[0].set_registered_model_alias("r1-omni", "next", "1")
    assert promote("next").outcome == "promoted"
    for target in ("1", "@next", "models:/r1-omni/1", "models:/r1-omni@champion"):
        assert promote(target).reason == "r1-omni 1 (grpo) is champion already"
    with pytest.raises(ValueError, match="models:/r1-omni/9: not in the registry"):
        promote("9")
    with pytest.raises(ValueError, match="models:/r1-omni@nobody: not in the registry"):
        promote("nobody")


def test_the_first_champion_needs_no_gain_but_no_version_may_be_better(
    tracking: TrackingParams, register: Any, promote: Any
) -> None:
    register("label_sft", right=80)
    worse = promote(register(right=60))
    assert worse.outcome == "kept"
    assert "r1-omni 2 (grpo) is not promoted: r1-omni 1 (label_sft) is better" in worse.reason
    assert promote(register("cold_start", right=78)).outcome == "promoted"
    assert champion_now(tracking) == 3


def test_the_pipeline_ends_with_a_champion_whichever_model_is_the_best(
    tracking: TrackingParams, register: Any
) -> None:
    targets = [
        register("grpo", right=60),
        register("label_sft", right=80),
        register("base", right=5),
    ]
    decisions = promote_first_of(targets, promotion=RULE, tracking=tracking)
    assert [(d.outcome, d.champion) for d in decisions] == [("kept", None), ("promoted", 2)]
    (again,) = promote_first_of(targets, promotion=RULE, tracking=tracking)
    assert (again.outcome, again.champion) == ("kept", 2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_version_with_a_non_finite_metric_is_refused(
    project: Path, tracking: TrackingParams, register: Any, promote: Any, value: float
) -> None:
    promote(register(right=60))
    broken = promote(register(right=95, war=value))
    assert (broken.outcome, champion_now(tracking)) == ("refused", 1)
    assert "its metrics are non-finite: eval/ravdess/war" in broken.reason
    assert receipts(project)[-1]["outcome"] == "refused"


@pytest.mark.parametrize("other", [{"sha256": "re-encoded"}, {"n": 99}])
def test_numbers_of_other_clips_are_refused(
    tracking: TrackingParams, register: Any, promote: Any, other: dict[str, Any]
) -> None:
    """The same ids and labels of clips with other bytes are other clips, too."""
    promote(register(right=60))
    refused = promote(register(right=95, **other))
    assert (refused.outcome, champion_now(tracking)) == ("refused", 1)
    assert "champion r1-omni 1 (grpo) was measured on other held-out clips" in refused.reason
    open_client(tracking)[0].delete_registered_model_alias("r1-omni", "champion")
    assert promote("2").outcome == "promoted", "what the message says to do"


def test_without_held_out_clips_nothing_is_compared(
    tracking: TrackingParams, register: Any, promote: Any
) -> None:
    refused = promote(register(right=0, n=0))
    assert (refused.outcome, champion_now(tracking)) == ("refused", None)
    assert "set held_out.clips" in refused.reason


def test_a_version_of_before_the_gate_is_refused_with_what_to_run(
    tracking: TrackingParams, register: Any, promote: Any
) -> None:
    register()
    open_client(tracking)[0].delete_model_version_tag("r1-omni", "1", "held_out")
    assert "`dvc repro --force --single-item register@grpo`" in promote("1").reason


def test_a_receipt_whose_version_is_not_in_this_registry_says_what_to_run(
    project: Path, empty_store: Path, register: Any, promote: Any
) -> None:
    receipt = register()
    shutil.copy(empty_store, project / "mlflow.db")
    advice = "not registered here; run `dvc repro --force --single-item register@grpo`"
    with pytest.raises(ValueError, match=advice):
        promote(receipt)


def test_held_out_predictions_of_other_clips_than_registered_are_an_error(
    project: Path, tracking: TrackingParams, register: Any, promote: Any, trained: Any
) -> None:
    receipt = register()
    (stored,) = project.glob("mlartifacts/*/artifacts/held_out/grpo.parquet")
    stored.unlink()
    shutil.copy(trained("grpo", n=99)["held_out"], stored)
    with pytest.raises(ValueError, match="was measured on other clips"):
        promote(receipt)


def test_rollback_returns_to_the_version_before_step_by_step(
    tracking: TrackingParams, register: Any, promote: Any
) -> None:
    for right in (40, 60, 80):
        promote(register(right=right))
    assert run_rollback(tracking=tracking) == (
        "r1-omni 2 (grpo) is champion again, no longer r1-omni 3 (grpo)"
    )
    assert promote("3").outcome == "promoted"
    for expected in (2, 1):
        run_rollback(tracking=tracking)
        assert champion_now(tracking) == expected
    with pytest.raises(ValueError, match=r"no version was champion before r1-omni 1 \(grpo\)"):
        run_rollback(tracking=tracking)
    with open_champion(tracking) as champion:
        moves = [(move["version"], move["how"]) for move in champion.history()]
    assert moves == [
        (1, "promoted"), (2, "promoted"), (3, "promoted"), (2, "rolled back"), (3, "promoted"),
        (2, "rolled back"), (1, "rolled back"),
    ]  # fmt: skip


def test_rollback_after_a_move_by_hand_returns_to_the_gates_last_choice(
    tracking: TrackingParams, register: Any, promote: Any
) -> None:
    with pytest.raises(ValueError, match="r1-omni: no version is champion"):
        run_rollback(tracking=tracking)
    promote(register(right=60))
    register(right=20)
    open_client(tracking)[0].set_registered_model_alias("r1-omni", "champion", "2")
    run_rollback(tracking=tracking)
    assert champion_now(tracking) == 1
