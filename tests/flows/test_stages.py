from pathlib import Path

import pytest

from flows.stages import read_stages


def test_the_order_is_dvcs_and_every_phase_has_its_stages(toy: Path) -> None:
    stages = read_stages(toy)
    assert [(stage.name, stage.phase) for stage in stages] == [
        ("ingest@dfew", "ingest and validate"),
        ("ingest@mafw", "ingest and validate"),
        ("validate", "ingest and validate"),
        ("grpo", "GRPO"),
        ("report", "out-of-distribution evaluation"),
        ("aside", "everything else"),
    ]
    upstream = {stage.name: set(stage.upstream) for stage in stages}
    assert upstream["validate"] == {"ingest@dfew", "ingest@mafw"}
    assert upstream["grpo"] == {"validate"}
    assert upstream["aside"] == set()


def test_targets_bring_what_they_need_and_nothing_else(toy: Path) -> None:
    assert [s.name for s in read_stages(toy, ["validate"])] == [
        "ingest@dfew",
        "ingest@mafw",
        "validate",
    ]
    assert [s.name for s in read_stages(toy, ["ingest"])] == ["ingest@dfew", "ingest@mafw"]
    assert [s.name for s in read_stages(toy, ["ingest@mafw"])] == ["ingest@mafw"]


def test_an_unknown_target_is_named(toy: Path) -> None:
    with pytest.raises(ValueError, match=r"'gpro' is no stage of dvc\.yaml; known: .*grpo"):
        read_stages(toy, ["gpro"])
