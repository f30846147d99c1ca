"""What DeepSpeed is given: config, weights, optimiser; its import; one kind of device a process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from r1omni.config import MachineParams
from r1omni.machine.imports import quick_imports

LARGEST = 50_000_000  # elements of the optimiser's groups under ZeRO (`_groups`)


def deepspeed_config(machine: MachineParams, dtype: str, max_grad_norm: float) -> dict[str, Any]:
    """DeepSpeed's config. It sees one micro-batch a step, since `backward` accumulates ours."""
    offload: dict[str, Any] = {}
    if machine.offload_optimizer == "cpu":
        offload["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": {
            "stage": machine.zero_stage,
            "stage3_param_persistence_threshold": 0,
            **offload,
        },
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, which needs no compiler
        "bf16": {"enabled": dtype == "bf16"},
        "steps_per_print": 2**31,
    }


def import_deepspeed() -> Any:
    """DeepSpeed, which does not compile its unused shared-memory kernel (two minutes).

    Nor does it probe, in every process, which of its other kernels could be compiled.
    """
    with quick_imports():
        import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def refuse_other_device(deepspeed: Any, device: torch.device) -> None:
    """Raise RuntimeError if DeepSpeed was imported for another kind of device."""
    kind = deepspeed.accelerator.get_accelerator().device_name()
    if kind != device.type:
        raise RuntimeError(
            f"training on {device.type}, but DeepSpeed was loaded for {kind} earlier in this "
            "process: one process trains on one kind of device"
        )


def build_optimizer(
    weights: Sequence[Tensor], machine: MachineParams, *, lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """torch's AdamW: on CUDA its fused kernel, one launch for many weights.

    DeepSpeed accepts it like the plain one: ZeRO flattens the groups, in place, before the first
    step, and goes by the optimiser's class. An optimiser that is offloaded to the host, or that
    trains on the CPU, stays the plain one: the fused kernel rounds differently.
    """
    groups = _groups(weights) if machine.zero_stage else list(weights)
    fused = weights[0].device.type == "cuda" and machine.offload_optimizer == "none"
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused or None)


@contextmanager
def no_first_step(optimizer: torch.optim.AdamW) -> Iterator[None]:
    """Around DeepSpeed's start, which in bfloat16 without ZeRO takes a step of zero gradients.

    That step would decay the weights and count in the bias corrections of all later ones.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.state.clear()


class TrainedWeights(nn.Module):
    """A model's trained weights without its modules: all that DeepSpeed is to divide and save.

    Frozen weights would be broadcast at the start, divided under ZeRO-3 and written into every
    state, and are the start checkpoint's already.

    Under ZeRO-3 DeepSpeed hangs hooks on every module, which gather its weights for each call. Our
    weights are gathered once per step, and ranks call modules in different numbers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)


def _groups(weights: Sequence[Tensor]) -> list[dict[str, list[Tensor]]]:
    """Neighbouring weights in parameter groups of at most LARGEST elements (or one larger weight).

    ZeRO flattens each group into one tensor. The optimiser's step needs twice that memory for its
    temporaries, with the gradient in float32: with groups, only for one group at a time.
    """
    groups: list[list[Tensor]] = []
    room = 0
    for weight in weights:
        if weight.numel() > room:
            groups.append([])
            room = LARGEST
        groups[-1].append(weight)
        room -= weight.numel()
    return [{"params": group} for group in groups]
