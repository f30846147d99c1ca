"""LoRA in the stages and on both backbones: what is trained, kept, written, loaded and merged."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_thinker
import torch
import toy
from forked import Ranks, train

from r1omni.lineage import read_provenance, write_provenance
from r1omni.machine.curves import read_curves
from r1omni.model import adapters
from r1omni.model.adapters import ADAPTER, ADAPTER_CONFIG, adapter_parameters, find_base, put_on
from r1omni.model.backbone import prefill_prompts
from r1omni.model.loading import load_backbone
from r1omni.tracking.provenance import content_hash
from r1omni.training.checkpoints import load_parent
from r1omni.training.reference import AdapterAtStart
from r1omni.training_config import AdapterParams

LORA = AdapterParams(rank=4, alpha=8.0, targets=("attention", "mlp"))
STEPS = {"steps": 4, "lr": 1e-2}


def trained(folder: Path, size: int, kind: str, world: Path, **machine: object) -> Path:
    params = STEPS if kind == "grpo" else {"epochs": 2}
    how = {"adapter": LORA, "processes": size, **machine}
    codes = Ranks(folder, size, train, kind, world, folder, how, params).wait()
    assert codes == [0] * size, (folder / f"said-{size - 1}").read_text()[-3000:]
    return folder


def curves_of(folder: Path) -> list[dict[str, float]]:
    rows = read_curves(folder / "training" / "curves.jsonl")
    return [{k: v for k, v in row.items() if k != "rollout/logprob_gap"} for row in rows]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """GRPO with an adapter in one process."""
    return trained(tmp_path_factory.mktemp("alone"), 1, "grpo", world)


@pytest.mark.parametrize(("size", "zero_stage"), [(1, 1), (1, 3), (2, 0), (2, 2), (2, 3)])
def test_every_division_learns_the_same(alone, world, tmp_path, size, zero_stage):
    found = curves_of(trained(tmp_path, size, "grpo", world, zero_stage=zero_stage))
    expected = curves_of(alone)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6)
    assert expected[0]["train/kl"] == 0.0  # the start is the policy, to the last bit
    assert expected[-1]["train/kl"] > 1e-5


@pytest.mark.parametrize(("size", "zero_stage"), [(1, 0), (2, 2), (2, 3)])
def test_in_bfloat16_it_learns_and_loads_as_it_was_trained(world, tmp_path, size, zero_stage):
    base = content_hash(world / "parent")
    folder = trained(tmp_path, size, "sft", world, zero_stage=zero_stage, dtype="bf16")
    losses = [row["train/loss"] for row in curves_of(folder)]
    assert all(0.0 < loss < 20.0 for loss in losses)
    assert len(set(losses)) == len(losses)
    loaded = load_backbone(folder / "checkpoint", base=world / "parent")
    assert {p.dtype for p in adapter_parameters(loaded).values()} == {torch.bfloat16}
    assert loaded.language_model.lm_head.weight.dtype == torch.bfloat16
    assert content_hash(world / "parent") == base
