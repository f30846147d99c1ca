"""Several processes against one, ZeRO stages and dtypes, micro-batches: the same training."""

import json
import math
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch
import toy
from forked import Ranks, train

from r1omni.machine.curves import read_curves
from r1omni.machine.ranks import shares
from r1omni.model import HumanOmniForConditionalGeneration
from r1omni.training import deepspeed_setup

ZERO, DTYPES = (0, 1, 2, 3), ("fp32", "bf16")
EVERY = tuple((zero_stage, dtype) for zero_stage in ZERO for dtype in DTYPES)
# By number of processes. One process divides nothing, and DeepSpeed has one optimiser for ZeRO 1
# and 2. float32 under ZeRO 2 and 3 goes on and ends in the test of many groups.
PAIRS = {
    1: ((0, "fp32"), (0, "bf16"), (3, "bf16")),
    2: ((0, "fp32"), (0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "bf16")),
}
LENGTH = {"grpo": {"steps": 4}, "sft": {"epochs": 1}}


def curves_of(folder: Path) -> list[dict[str, float]]:
    """The curves without the gap, which is rounding and nothing else."""
    rows = read_curves(folder / "training" / "curves.jsonl")
    return [{k: v for k, v in row.items() if k != "rollout/logprob_gap"} for row in rows]


def trained(folder: Path, size: int, kind: str, world: Path, machine: dict, **params) -> Path:
    codes = Ranks(folder, size, train, kind, world, folder, machine, params).wait()
    assert codes == [0] * size, (folder / f"said-{size - 1}").read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """Both stages in one process."""
    return {
        kind: trained(tmp_path_factory.mktemp(kind), 1, kind, world, {}, **LENGTH[kind])
        for kind in LENGTH
    }


@pytest.mark.parametrize(
    ("kind", "size", "machine"),
    [
        ("grpo", 2, {"processes": 2}),
        ("grpo", 2, {"processes": 2, "zero_stage": 2, "micro_batch_size": 1}),
        ("grpo", 1, {"micro_batch_size": 2, "gradient_checkpointing": True}),
        ("sft", 2, {"processes": 2, "zero_stage": 3}),
        ("sft", 1, {"micro_batch_size": 2, "gradient_checkpointing": True}),
    ],
)
def test_the_same_global_batch_gives_the_same_curves(alone, world, tmp_path, kind, size, machine):
    expected = curves_of(alone[kind])
    found = curves_of(trained(tmp_path, size, kind, world, machine, **LENGTH[kind]))
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    if kind == "grpo":
        tables = [
            pd.read_parquet(folder / "training" / "rollouts.parquet")
            for folder in (tmp_path, alone[kind])
        ]
        pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-5)
        assert any(0 < row["rollout/zero_variance_groups"] < 1 for row in expected)


def test_all_decoded_first_and_prompts_run_again_teach_the_same(alone, world, tmp_path):
    """In one process: test_knobs.py."""
    machine = {"processes": 2, "micro_batch_size": 1, "prefix": "recompute"}
    found = trained(tmp_path, 2, "grpo", world, machine, **LENGTH["grpo"])
    for ours, theirs in zip(curves_of(found), curves_of(alone["grpo"]), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    tables = [
        pd.read_parquet(folder / "training" / "rollouts.parquet")
        for folder in (found, alone["grpo"])
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-5)


def test_a_rank_without_a_share_neither_stalls_nor_counts(world, tmp_path):
    one = trained(tmp_path / "1", 1, "grpo", world, {}, clips_per_step=1, steps=3)
    two = trained(tmp_path / "2", 2, "grpo", world, {"zero_stage": 2}, clips_per_step=1, steps=3)
    for ours, theirs in zip(curves_of(two), curves_of(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)


def test_without_a_kl_term_two_ranks_learn_what_one_does(world, tmp_path):
    """Each leaves its own groups of equal rewards out, to the last one.

    The curves of KL and entropy tell of the same groups, however the ranks shared them.
    """
    params = {"kl_coef": 0.0, "steps": 4}
    one = curves_of(trained(tmp_path / "1", 1, "grpo", world, {}, **params))
    two = curves_of(trained(tmp_path / "2", 2, "grpo", world, {"zero_stage": 2}, **params))
    assert any(0 < row["rollout/zero_variance_groups"] < 1 for row in one)
    assert [row.keys() for row in two] == [row.keys() for row in one]
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    assert one[-1]["rollout/entropy"] > 0.0
    tables = [pd.read_parquet(tmp_path / name / "training" / "rollouts.parquet") for name in "12"]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-5)


def test_grpo_under_the_papers_engine_trains_and_leaves_a_checkpoint(world, tmp_path):
    machine = {"processes": 2, "zero_stage": 3, "dtype": "bf16"}
    curves = curves_of(trained(tmp_path, 2, "grpo", world, machine, steps=3))
    assert [row["step"] for row in curves] == [1, 2, 3]
    assert all(math.isfinite(value) for row in curves for value in row.values())
    gaps = [row["rollout/logprob_gap"] for row in read_curves(tmp_path / "training/curves.jsonl")]
    assert all(0.0 <= gap < 0.02 for gap in gaps)  # nats a token, of an entropy of about 1
    assert curves[-1]["optim/grad_norm"] > 0.0
    assert curves[0]["train/kl"] == pytest.approx(0.0, abs=1e-9)  # the reference is the start
    logits = []
    for folder in (world / "parent", tmp_path / "checkpoint"):
        model = HumanOmniForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
        with torch.no_grad():
            logits.append(model(input_ids=torch.arange(8)[None]).logits)
    assert bool(torch.isfinite(logits[1]).all())
    assert not torch.equal(*logits)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    expected = weights.read_bytes()
    shutil.rmtree(weights.parent)  # as if it had been killed in its last steps
    kept = toy.state_in(tmp_path) / "step-000002" / "kept"
    kept.touch()  # a state made again would not have it
    trained(tmp_path, 2, "grpo", world, machine, steps=3)
    assert kept.exists()
    assert weights.read_bytes() == expected


def in_small_groups(*arguments: object) -> None:
    """Train with the optimiser's weights in many groups, as those of the real size are."""
    from r1omni.training import deepspeed_setup

    deepspeed_setup.LARGEST = 1000
    train(*arguments)


@pytest.mark.parametrize("zero_stage", [2, 3])  # 1 has the same optimiser in DeepSpeed as 2
def test_the_optimiser_in_many_groups_learns_the_same_and_goes_on(
    alone, world, tmp_path, zero_stage
):
    machine = {"processes": 2, "zero_stage": zero_stage, "save_every": 2}

    def run() -> list[dict[str, float]]:
        codes = Ranks(
            tmp_path, 2, in_small_groups, "grpo", world, tmp_path, machine, LENGTH["grpo"]
        ).wait()
        assert codes == [0, 0], (tmp_path / "said-1").read_text()[-3000:]
        return curves_of(tmp_path)

    for ours, theirs in zip(run(), curves_of(alone["grpo"]), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    expected = weights.read_bytes()
    shutil.rmtree(weights.parent)
    kept = toy.state_in(tmp_path) / "step-000002" / "kept"
    kept.touch()  # a state made again would not have it
    run()
    assert kept.exists()
    assert weights.read_bytes() == expected


def test_groups_by_hand(monkeypatch):
    monkeypatch.setattr(deepspeed_setup, "LARGEST", 8)
    weights = [torch.zeros(n) for n in (3, 4, 10, 2, 6, 1)]
    groups = [[p.numel() for p in group["params"]] for group in deepspeed_setup._groups(weights)]
    assert groups == [[3, 4], [10], [2, 6], [1]]


def test_shares_by_hand(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert shares(7) == [range(3, 7)]
    assert shares(7, 3) == [range(3, 5), range(5, 7)]
    assert shares(7, 1) == [range(3, 4), range(4, 5), range(5, 6), range(6, 7)]
    assert shares(7, 9) == [range(3, 7)]
    assert shares(1, 3) == [range(0, 1)]
    monkeypatch.setenv("RANK", "0")
    assert shares(7) == [range(0, 3)]
    assert shares(1) == []


def walk(
    world: Path, folder: Path, device: str = "cpu", pairs: Sequence[tuple[int, str]] = EVERY
) -> None:
    """Pairs of ZeRO stage and dtype at this number of ranks: train, save, resume, export."""
    from r1omni.machine.environment import is_first
    from r1omni.machine.ranks import join_ranks
    from r1omni.machine.state_folders import open_state
    from r1omni.model.humanomni.backbone import HumanOmniBackbone
    from r1omni.training import sft
    from r1omni.training.checkpoints import load_parent, save_checkpoint
    from r1omni.training.engine import Engine
    from r1omni.training.modality_dropout import NOTHING_MISSING
    from r1omni.training.schedules import linear_decay

    join_ranks(toy.machine_params(device=device))
    clips = [toy.clip_at(i) for i in range(toy.CLIPS)]
    examples = sft.examples_from(clips, "reasoned")
    store = sft.FeatureStore([world / "features"])
    parent = load_parent(world / "parent")
    processor = parent.processor
    found = {}
    for zero_stage, dtype in pairs:
        paths = toy.paths_in(folder / f"{zero_stage}-{dtype}")
        params = toy.machine_params(zero_stage=zero_stage, device=device)

        def begin(params=params, dtype=dtype):
            schedule = linear_decay(3, 0.0)
            options = {"lr": 1e-2, "weight_decay": 0.0, "max_grad_norm": 1.0}
            return Engine(deepcopy(parent.model), params, dtype=dtype, schedule=schedule, **options)

        def learn(trainer, upto):
            metrics = {}
            while trainer.step_count < upto:
                for places in trainer.shares(len(examples)):
                    part = [examples[place] for place in places]
                    backbone = HumanOmniBackbone(trainer.model, processor)
                    loss = sft._batch_loss(backbone, store.load, part, NOTHING_MISSING)
                    trainer.backward(*loss[:2])
                metrics = trainer.update()
            return metrics

        def answer(model):
            with torch.no_grad():
                prompt = torch.tensor([processor.encode_prompt("why")]).clamp(min=0)
                return model(input_ids=prompt.to(model.device)).logits.float().cpu()

        trainer = begin()
        paths = open_state(paths, "walk")
        before = answer(trainer.model)
        learn(trainer, 2)
        trainer.save(paths.state, "walk")
        metrics = learn(trainer, 3)
        logits = answer(trainer.model)
        resumed = begin()
        step = resumed.resume(paths.state, "walk")
        learn(resumed, 3)
        again = answer(resumed.model)
        save_checkpoint(
            HumanOmniBackbone(trainer.model, processor),
            paths,
            stage_params=toy.sft_params(),
            mode="reasoned",
            parent=world / "parent",
            clips=clips,
            data={},
        )
        loaded = HumanOmniForConditionalGeneration.from_pretrained(paths.checkpoint)
        found[f"{zero_stage}-{dtype}"] = {
            "resumed_at": step,
            "moved": float((logits - before).abs().max()),
            "resumed_equal": torch.equal(logits, again),
            "resumed_apart": float((logits - again).abs().max()),
            "exported_equal": torch.equal(logits, answer(loaded.to(trainer.device))),
            "dtype": str(loaded.dtype),
            "loss": metrics["train/loss"],
            "grad_norm": metrics["optim/grad_norm"],
        }
    if is_first():
        (folder / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def walked(world, tmp_path_factory):
    """What every combination did, by number of processes."""
    found = {}
    for size, pairs in PAIRS.items():
        folder = tmp_path_factory.mktemp(f"walk-{size}")
        codes = Ranks(folder, size, walk, world, folder, "cpu", pairs).wait()
        assert codes == [0] * size, (folder / "said-0").read_text()[-3000:]
        found[size] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize(
    ("size", "zero_stage", "dtype"),
    [(size, *pair) for size, pairs in PAIRS.items() for pair in pairs],
)
def test_every_zero_stage_and_dtype_trains_saves_resumes_and_exports(
    walked, size, zero_stage, dtype
):
    found = walked[size][f"{zero_stage}-{dtype}"]
    assert found["resumed_at"] == 2
    assert found["moved"] > 1e-3
    assert found["resumed_equal"]
    assert found["exported_equal"]
    assert found["dtype"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[dtype]
    plain = walked[1]["0-fp32"]
    tolerance = 1e-5 if dtype == "fp32" else 0.05
    assert found["loss"] == pytest.approx(plain["loss"], rel=tolerance)
    assert found["grad_norm"] == pytest.approx(plain["grad_norm"], rel=tolerance * 4)
    sharded = walked[size]["3-bf16"]
    if dtype == "bf16":  # every stage is the same training; a first step too many makes 15 %
        assert found["moved"] == pytest.approx(sharded["moved"], rel=0.01)
        assert found["loss"] == pytest.approx(sharded["loss"], rel=0.01)
