"""The pretended device refuses what a GPU refuses, and takes what a GPU takes."""

import numpy as np
import pytest
import torch
from pretend_cuda import DEVICE, on_cpu, pretend_cuda
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")

TWO_DEVICES = "found at least two devices, cuda:0 and cpu"


@pytest.fixture
def cuda():
    with pretend_cuda() as device:
        yield device


@pytest.fixture
def x(cuda):
    return torch.tensor([1.0, 2.0, 4.0], device=cuda)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: y + x.sum(),  # only the CPU's scalars may be mixed in
        lambda x, y: x.add_(y),
        lambda x, y: y.sum().add_(x.sum()),
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.stack([x.sum(), y.sum()]),
        lambda x, y: x @ y,
        lambda x, y: torch.where(x > 2, x, y),
        lambda x, y: x.masked_fill(y > 0, 0.0),
        lambda x, y: x.gather(0, y.long()),
        lambda x, y: x.index_select(0, y.long()),
        lambda x, y: nn.functional.embedding(y.long(), x[:, None]),
        lambda x, y: nn.functional.linear(x, y[None]),
        lambda x, y: x.index_put((x > 2,), y[:1]),
    ],
)
def test_two_devices_do_not_mix(x, mix):
    with pytest.raises(RuntimeError, match=TWO_DEVICES):
        mix(x, torch.ones(3))


def test_nor_do_they_in_a_backward_pass(x):
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, given):
            return given * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.full(grad.shape, 2.0)

    loss = Forgetful.apply(x.requires_grad_()).sum()
    with pytest.raises(RuntimeError, match=TWO_DEVICES):
        loss.backward()


def test_a_backward_pass_may_not_leave_its_gradient_on_the_cpu(x):
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, given, _factor):
            return given * 2

        @staticmethod
        def backward(ctx, grad):
            return torch.full(grad.shape, 2.0), None

    loss = Forgetful.apply(x.requires_grad_(), 2.0).sum()
    with pytest.raises(RuntimeError, match="index 0 - expected device cuda:0 but got cpu"):
        loss.backward()


def test_there_is_one_device_alone(cuda):
    for take in (lambda: torch.ones(1, device="cuda:1"), lambda: torch.ones(1).to("cuda:1")):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            take()


def test_scalars_and_indices_of_the_cpu_are_taken(x):
    assert (x + torch.tensor(1.0)).tolist() == [2.0, 3.0, 5.0]
    assert torch.where(x > 2, x, torch.tensor(0.0)).tolist() == [0.0, 0.0, 4.0]
    assert x[torch.tensor([2, 0])].tolist() == [4.0, 1.0]
    assert x[[2, 0]].tolist() == [4.0, 1.0]
    assert x[torch.tensor([True, False, True])].tolist() == [1.0, 4.0]
    x[torch.tensor([1])] = torch.tensor(9.0)
    x[x > 8] *= 2
    assert x.tolist() == [1.0, 18.0, 4.0]


def test_the_cpu_takes_no_index_of_the_device(x):
    with pytest.raises(RuntimeError, match="indices should be either on cpu"):
        torch.ones(5)[x.long()]


def test_a_generator_of_the_cpu_is_refused(cuda, x):
    for draw in (
        lambda g: torch.rand(2, device=cuda, generator=g),
        lambda g: x.normal_(generator=g),
    ):
        with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
            draw(torch.Generator())
    assert torch.rand(2, generator=torch.Generator()).to(cuda).device == cuda


def test_numpy_needs_the_cpu_first(x):
    for read in (lambda: x.numpy(), lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            read()
    assert x.cpu().numpy().tolist() == [1.0, 2.0, 4.0]


@pytest.mark.skipif(not torch._C._has_mkldnn, reason="this torch has no oneDNN")
def test_an_operation_of_the_cpu_alone_is_refused(cuda):
    with pytest.raises(NotImplementedError, match="mkldnn::_reorder_linear_weight"):
        torch.ops.mkldnn._reorder_linear_weight(torch.ones(4, 4, device=cuda), 2)


def test_whatever_is_made_is_where_it_should_be(cuda, x):
    there = [
        torch.zeros(2, device="cuda"), torch.arange(2, device=cuda), torch.ones(2).to("cuda"),
        torch.ones(2).cuda(), torch.as_tensor([1], device="cuda:0"), x.new_ones(2), x.to(x.device),
        torch.ones_like(x), x.long(), x.nonzero(), x[1:], x.detach(), x.data, torch.ones(2).to(x),
    ]  # fmt: skip
    here = [torch.zeros(2), x.cpu(), x.to("cpu"), x.new_ones(2, device="cpu"), torch.ones(2)]
    assert {one.device for one in there} == {cuda}
    assert {one.device for one in here} == {torch.device("cpu")}
    assert x.to(cuda) is x
    assert float(x[1]) == x[1].item() == 2.0
    assert bool((x > 0).all())
    with torch.inference_mode():
        assert nn.functional.linear(x, x[None]).device == cuda
        assert x.cpu().device == torch.device("cpu")


def test_gradients_are_the_cpus_and_pass_between_the_devices(cuda):
    """y = w^2 on the device, with w and y on the CPU: dy/dw = 2 w."""
    w = torch.tensor([3.0, 5.0], requires_grad=True)
    there = w.to(cuda)
    squared = checkpoint(lambda v: v * v, there, use_reentrant=False, preserve_rng_state=False)
    (on_device,) = torch.autograd.grad(squared.sum(), there, retain_graph=True)
    assert (on_device.device, on_device.tolist()) == (cuda, [6.0, 10.0])
    squared.cpu().sum().backward()
    assert (w.grad.device, w.grad.tolist()) == (torch.device("cpu"), [6.0, 10.0])


def test_a_moved_module_keeps_its_parameters_and_their_ties(cuda):
    first = nn.Linear(2, 2, bias=False)
    second = nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    weight, before = first.weight, first.weight.tolist()
    nn.ModuleList([first, second]).to(cuda)
    assert first.weight is second.weight is weight
    assert isinstance(weight, nn.Parameter)
    assert weight.requires_grad
    assert (weight.device, weight.tolist()) == (cuda, before)


def test_nothing_is_pretended_before_or_after():
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
    with pretend_cuda():
        made = torch.zeros(1, device="cuda")
        assert torch.zeros(1, device="meta").is_meta
    assert (made.device, on_cpu([made])) == (DEVICE, [torch.zeros(1)])
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
