"""What DeepSpeed is given: the trained weights alone, and on CUDA the fused AdamW."""

import shutil
from pathlib import Path

import pytest
import torch
import toy
from forked import train as run_stage
from pretend_cuda import on_cpu, pretend_cuda
from safetensors.torch import load_file, save_file

from r1omni.training import deepspeed_setup
from r1omni.training import engine as engines
from r1omni.training.deepspeed_setup import build_optimizer
from r1omni.training.engine import Engine

EVERY = [(zero_stage, dtype) for zero_stage in range(4) for dtype in ("fp32", "bf16")]


def half_frozen(zero_stage: int, dtype: str = "fp32") -> Engine:
    """An engine of two layers, of which the first is frozen."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    model[0].requires_grad_(False)
    machine = toy.machine_params(zero_stage=zero_stage, processes=1)
    how = {"lr": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0}
    return Engine(model, machine, dtype=dtype, schedule=lambda _step: 1.0, **how)


def train(engine: Engine, upto: int) -> list[torch.Tensor]:
    """The weights after so many steps."""
    while engine.step_count < upto:
        x = torch.full((3, 4), 1.0 + engine.step_count, dtype=engine.model[0].weight.dtype)
        engine.backward((engine.model(x).float() - 1.0).square().mean())
        engine.update()
    return [p.detach().clone() for p in engine.model.parameters()]


@pytest.mark.parametrize(("zero_stage", "dtype"), EVERY)
def test_a_state_has_no_frozen_weight_and_resumes_bit_for_bit(tmp_path, zero_stage, dtype):
    whole = train(half_frozen(zero_stage, dtype), 4)
    first = half_frozen(zero_stage, dtype)
    frozen = train(first, 2)[:2]
    first.save(tmp_path, "recipe")
    for file in tmp_path.glob("step-000002/state/*.pt"):
        assert not {(8, 4), (8,)} & set(shapes_in(torch.load(file, weights_only=False))), file.name
    resumed = half_frozen(zero_stage, dtype)
    assert resumed.resume(tmp_path, "recipe") == 2
    found = train(resumed, 4)
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found[:2], frozen, strict=True))
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    assert {weight.dtype for weight in found} == {expected}  # the frozen ones, too


def shapes_in(value: object) -> list[tuple[int, ...]]:
    """The shapes of all tensors in a nest, and those that it names."""
    if isinstance(value, torch.Tensor):
        return [tuple(value.shape)]
    if isinstance(value, torch.Size):
        return [tuple(value)]
    inner = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, (dict, list, tuple))
    return [shape for one in inner for shape in shapes_in(one)] if nested else []


def test_a_state_of_another_start_is_not_resumed_though_only_its_tower_differs(world, tmp_path):
    """A state has no frozen weight, so it must belong to the ones that the start has."""
    own = tmp_path / "world"
    shutil.copytree(world, own)

    def kill(step: int, _metrics: object) -> None:
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    def interrupted() -> list[int]:
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            run_stage("sft", own, tmp_path / "out", {"save_every": 2}, {}, kill)
        return list(seen)

    seen: list[int] = []
    interrupted()
    assert states(tmp_path / "out") == 1
    weights = own / "parent" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "vision_tower" in name)
    save_file(tensors | {name: tensors[name] + 1.0}, weights, metadata={"format": "pt"})
    assert interrupted() == [1, 2, 3]  # from the start, with a state of its own
    assert states(tmp_path / "out") == 2


def states(folder: Path) -> int:
    """The number of recipes that have a state there."""
    return len({state.parent for state in toy.paths_in(folder).state.glob("*/step-*")})


def test_the_optimiser_is_fused_on_cuda_alone_and_not_where_the_host_has_its_state():
    plain = toy.machine_params(zero_stage=1)
    host = toy.machine_params(zero_stage=1, offload_optimizer="cpu")

    def fused(machine, device):
        weights = [torch.nn.Parameter(torch.ones(2, device=device))]
        return build_optimizer(weights, machine, lr=0.1, weight_decay=0.0).defaults["fused"]

    assert not fused(plain, "cpu")
    assert not fused(host, "cpu")
    with pretend_cuda() as device:
        assert fused(plain, device)
        assert not fused(host, device)


def test_the_fused_optimisers_steps_are_the_plain_ones_on_a_pretended_gpu():
    def steps(device: torch.device) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=generator) for shape in ((3, 5), (7,))]
        weights = [torch.nn.Parameter(x.to(device)) for x in start]
        optimizer = build_optimizer(weights, toy.machine_params(), lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator).to(device)
            optimizer.step()
        return [weight.detach() for weight in weights]

    expected = steps(torch.device("cpu"))
    with pretend_cuda() as device:
        found = on_cpu(steps(device))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("zero_stage", "dtype"), EVERY)
def test_deepspeed_takes_the_fused_optimiser_in_every_zero_stage(
    monkeypatch, tmp_path, zero_stage, dtype
):
    """torch has the kernel for the CPU, too: the same steps to rounding, bit for bit resumed."""
    plain = train(half_frozen(zero_stage, dtype), 4)

    def fused(weights, machine, *, lr, weight_decay):
        groups = deepspeed_setup._groups(weights) if machine.zero_stage else weights
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)

    monkeypatch.setattr(engines, "build_optimizer", fused)
    whole = train(half_frozen(zero_stage, dtype), 4)
    first = half_frozen(zero_stage, dtype)
    train(first, 2)
    first.save(tmp_path, "recipe")
    resumed = half_frozen(zero_stage, dtype)
    resumed.resume(tmp_path, "recipe")
    assert all(torch.equal(a, b) for a, b in zip(train(resumed, 4), whole, strict=True))
    torch.testing.assert_close(whole, plain, atol=1e-6, rtol=0 if dtype == "fp32" else 1e-2)
