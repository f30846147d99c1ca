"""The memory that a training announces: numbers worked by hand, and what it advises."""

import logging
from dataclasses import replace

import pytest
import toy

from r1omni.model.feature_store import FeatureStore
from r1omni.params_file import read_params
from r1omni.training import memory
from r1omni.training.checkpoints import load_parent
from r1omni.training.memory import Workload, announce_memory, estimate

# Qwen2.5-Omni-3B's language model: 36 layers, 2048 wide, feed-forward 11008
SHAPE = {"layers": 36, "width": 2048, "feed_forward": 11008}
LORA = {"weights": 3_400_000_000, "trained": 30_000_000, "reference": 0}
ONE_CLIP = Workload(clips=1, prompt=1180, completion=8 * 150, micro_batches=2)
BF16 = {"dtype": "bf16", "zero_stage": 0, "processes": 1, "offload": False, "workspace": 2.5e9}


def test_the_parts_by_hand():
    found = estimate(**SHAPE, **LORA, **BF16, work=ONE_CLIP, checkpointing=False)
    assert found.weights == 6.8e9  # 2 bytes each
    assert found.gradients == 4 * 30e6  # several micro-batches: averaged in float32
    assert found.optimizer == 12 * 30e6
    assert found.reference == 0
    kept = 12 * 2048 + 3 * 11008  # numbers of one layer and position
    assert kept == 57600
    assert found.activations == 2 * (36 + 2) * 57600 * 2380
    assert found.total / 1e9 == pytest.approx(6.8 + 0.12 + 0.36 + 10.419 + 2.5, abs=0.01)


def test_checkpointing_keeps_a_layers_input_and_makes_one_layer_again():
    found = estimate(**SHAPE, **LORA, **BF16, work=ONE_CLIP, checkpointing=True)
    assert found.activations == pytest.approx(2 * 2380 * (36 * 1.3 * 2048 + 3 * 57600))


def test_a_position_takes_what_was_measured_at_the_released_shapes():
    """benchmarks/activations.py, bfloat16 on the CPU: 1.32 MB, and 0.26 with checkpointing."""
    shape = {"layers": 24, "width": 896, "feed_forward": 4864}
    work = Workload(clips=1, prompt=1, completion=0, micro_batches=1)
    plain, checkpointed = (
        estimate(**shape, **LORA, **BF16, work=work, checkpointing=again) for again in (False, True)
    )
    assert plain.activations == pytest.approx(1.32e6, rel=0.02)
    assert checkpointed.activations == pytest.approx(0.26e6, rel=0.25)


def test_the_profile_of_a_small_card_changes_the_machine_alone_and_fits(repo):
    paper, small = (read_params(repo / "params" / f"{p}.yaml") for p in ("paper", "paper-24gb"))
    assert small.model_copy(update={"machine": paper.machine}) == paper
    machine, grpo, text = small.machine, small.grpo, small.model.text
    found = estimate(
        weights=642_405_699 + 730_000_000,  # with the towers (docs/how-to/real-data.md)
        trained=642_405_699,
        reference=642_405_699,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        feed_forward=text.intermediate_size,
        work=Workload(machine.micro_batch_size, 950, grpo.group_size * grpo.max_new_tokens, 2),
        dtype=small.engine.dtype,
        zero_stage=machine.zero_stage,
        processes=machine.processes,
        offload=False,
        checkpointing=machine.gradient_checkpointing,
        workspace=memory.WORKSPACE + 2 * memory.BUCKET,
    )
    assert found.total < 22e9


def test_the_3b_with_an_adapter_fits_a_card_of_24_gb(repo):
    params = read_params(repo / "params/qwen2_5_omni.yaml")
    machine, grpo, text = params.machine, params.grpo, params.model.text
    found = estimate(
        weights=3_400_000_000 + 1_310_000_000,  # with the towers: 0.67 of vision, 0.64 of sound
        trained=30_000_000,
        reference=0,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        feed_forward=text.intermediate_size,
        work=Workload(
            machine.micro_batch_size,
            1180,
            grpo.group_size * grpo.max_new_tokens,
            micro_batches=16,
            sampled=grpo.clips_per_step,
            cached=2 * text.num_key_value_heads * 128,
        ),
        dtype=params.engine.dtype,
        zero_stage=machine.zero_stage,
        processes=machine.processes,
        offload=False,
        checkpointing=machine.gradient_checkpointing,
        workspace=memory.WORKSPACE,
    )
    assert found.total < 22e9


def test_sampling_counts_where_its_keys_and_values_take_more():
    work = replace(ONE_CLIP, sampled=16, cached=2 * 2 * 128)
    found = estimate(**SHAPE, **LORA, **BF16, work=work, checkpointing=False)
    assert found.activations == 2 * (36 + 2) * 57600 * 2380  # 10.4 GB of learning
    many = replace(work, sampled=160)
    found = estimate(**SHAPE, **LORA, **BF16, work=many, checkpointing=False)
    assert found.activations == 2 * 36 * 512 * 160 * 2380  # 14.0 GB of sampling
    fused = replace(many, copied=10**9)
    found = estimate(**SHAPE, **LORA, **BF16, work=fused, checkpointing=False)
    assert found.activations == 2 * 36 * 512 * 160 * 2380 + 2 * 10**9


def test_the_optimiser_is_shared_by_zero_and_float32_needs_no_second_weights():
    full = {"weights": 10, "trained": 8, "reference": 6}
    work = Workload(clips=2, prompt=3, completion=4, micro_batches=1)
    rest = {"work": work, "checkpointing": False, "workspace": 0.0, **SHAPE}
    alone = estimate(**full, **rest, dtype="fp32", zero_stage=0, processes=2,
                     offload=False)  # fmt: skip
    assert (alone.weights, alone.gradients, alone.optimizer, alone.reference) == (40, 32, 64, 24)
    shared = estimate(**full, **rest, dtype="bf16", zero_stage=2, processes=2,
                      offload=False)  # fmt: skip
    assert (shared.weights, shared.gradients, shared.optimizer) == (20, 16, 48)
    assert shared.reference == 12
    assert alone.activations == 2 * shared.activations
    third = estimate(**full, **rest, dtype="bf16", zero_stage=3, processes=2, offload=False)
    # half of the trained weights and of their gradient, once more
    assert third == replace(shared, weights=20 + 8, gradients=16 + 8)
    away = estimate(**full, **rest, dtype="bf16", zero_stage=2, processes=2, offload=True)
    assert away == replace(shared, optimizer=0)


def test_a_training_says_what_it_needs_and_advises_where_that_is_too_much(
    world, monkeypatch, capsys, caplog
):
    backbone = load_parent(world / "parent")
    example = backbone.ask(FeatureStore([world / "features"]).load(["clip-1"]), ["Which?"])
    machine = toy.machine_params(processes=1, zero_stage=0)

    def announce() -> str:
        announce_memory("grpo", backbone, machine, dtype="fp32", example=example, clips=4,
                        completion=8, has_reference=True)  # fmt: skip
        return capsys.readouterr().err

    weights = sum(p.numel() for p in backbone.module.parameters())
    said = announce()
    assert "grpo: about" in said
    assert f"weights {4 * weights / 1e9:.2g}" in said
    assert "reference" in said
    assert caplog.records == []
    monkeypatch.setattr(memory, "_capacity", lambda device: 1.0)
    with caplog.at_level(logging.WARNING):
        announce()
    (warning,) = caplog.messages
    assert "grpo may not fit: set machine.gradient_checkpointing" in warning
    assert "machine.micro_batch_size below 4" in warning
    assert "engine.dtype: bf16" in warning
