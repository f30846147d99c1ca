"""DeepSpeed's config, its import, and the one kind of device that a process trains on."""

from typing import Any

import torch

from r1omni.config import MachineParams
from r1omni.machine.imports import quick_imports


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
