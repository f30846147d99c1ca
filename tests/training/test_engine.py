"""The engine: schedules by hand, a resumed run bit-identical to an undisturbed one."""

import pytest
import torch

from r1omni.training.engine import Engine, NonFiniteLoss
from r1omni.training.schedules import cosine_decay, linear_decay, step_generator


def test_linear_decay_by_hand():
    factor = linear_decay(10, warmup=0.2)
    assert [factor(s) for s in range(10)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )
    assert factor(10) == 0.0


def test_cosine_decay_by_hand():
    factor = cosine_decay(9, warmup=0.1)
    assert factor(0) == 1.0
    assert factor(5) == pytest.approx(0.5)
    assert factor(9) == pytest.approx(0.0)


def test_steps_draw_different_but_repeatable_randomness():
    draws = [torch.rand(3, generator=step_generator(1, s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def small_engine(params, zero_stage=0):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    return Engine(
        model,
        params.machine.model_copy(update={"zero_stage": zero_stage, "device": "cpu"}),
        dtype="fp32",
        lr=1e-2,
        schedule=linear_decay(8, 0.1),
        weight_decay=0.0,
        max_grad_norm=1.0,
    )


def train(engine, upto):
    while engine.step_count < upto:
        x = torch.randn(16, 4, generator=step_generator(1, engine.step_count + 1))
        engine.backward(((engine.model(x) - x.sum(1, keepdim=True)) ** 2).mean())
        engine.update()


def weights(engine):
    return [p.detach().clone() for p in engine.model.parameters()]


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_resumed_run_ends_bit_identical(params, tmp_path, zero_stage):
    whole = small_engine(params, zero_stage)
    train(whole, 8)
    first = small_engine(params, zero_stage)
    train(first, 5)
    first.save(tmp_path, "recipe")
    resumed = small_engine(params, zero_stage)
    assert resumed.resume(tmp_path, "recipe") == 5
    train(resumed, 8)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_state_is_passed_over_for_the_one_before(params, tmp_path):
    engine = small_engine(params)
    train(engine, 2)
    engine.save(tmp_path, "recipe")
    train(engine, 4)
    engine.save(tmp_path, "recipe")
    newest = next((tmp_path / "step-000004").rglob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:100])
    assert small_engine(params).resume(tmp_path, "recipe") == 2


def test_another_recipes_state_is_not_resumed(params, tmp_path):
    engine = small_engine(params)
    train(engine, 2)
    engine.save(tmp_path, "recipe")
    assert small_engine(params).resume(tmp_path, "another") == 0


def test_a_loss_that_is_no_number_stops_with_its_step(params):
    engine = small_engine(params)
    train(engine, 2)
    before = weights(engine)
    engine.backward(engine.model(torch.full((1, 4), float("nan"))).sum())
    with pytest.raises(NonFiniteLoss, match="step 3"):
        engine.update()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(engine), strict=True))


def test_a_gradient_that_is_no_number_names_its_micro_batch_alone(params):
    engine = small_engine(params)
    x = torch.ones(1, 4)
    engine.backward(engine.model(x).sum(), clips=["a", "b"])
    with_infinite_slope = engine.model(x).sum().mul(0.0).sqrt()  # 0, and 0 * inf below it
    engine.backward(with_infinite_slope, clips=["c", "d"])
    engine.backward(engine.model(x).sum(), clips=["e"])
    with pytest.raises(NonFiniteLoss, match=r"step 1: the gradient's norm is nan \(c, d\);"):
        engine.update()


def test_a_loss_that_is_no_number_names_the_clips_known_to_be_broken(params):
    engine = small_engine(params)
    engine.backward(torch.tensor(float("nan")), clips=["a", "b"], broken=["b"])
    engine.backward(torch.tensor(float("inf")), clips=["c"])
    with pytest.raises(NonFiniteLoss, match=r"the loss is nan \(b\); the loss is inf \(c\);"):
        engine.update()


def test_grad_norm_and_clipping_by_hand(params):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1, bias=False)
    start = model.weight.detach().clone()
    engine = Engine(
        model,
        params.machine.model_copy(update={"device": "cpu"}),
        dtype="fp32",
        lr=0.1,
        schedule=lambda _step: 1.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    engine.backward(engine.model(torch.tensor([[3.0, 4.0]])).sum())
    metrics = engine.update()
    assert metrics["optim/grad_norm"] == pytest.approx(5.0)
    assert metrics["optim/lr"] == pytest.approx(0.1)
    # Adam's first step is lr * sign(gradient), whatever the clipping
    torch.testing.assert_close(engine.model.weight.detach(), start - 0.1, atol=1e-5, rtol=0)
