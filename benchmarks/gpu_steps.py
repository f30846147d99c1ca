"""Two GRPO steps of random weights on a device: speed, launches a token, memory and state.

One process, one JSON object on stdout; gpu_check.py starts it.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

from benchmarks.flops import necessary_flop
from benchmarks.measuring import Clock, PeakMemory
from benchmarks.random_model import (
    EndlessSampler,
    NoiseStore,
    alternating_rewards,
    build_random,
    noise_clips,
    prompt_positions,
)
from benchmarks.rates import square_rate
from r1omni.config import MachineParams, Params
from r1omni.corpora.clip import Clip
from r1omni.model.backbone import prefill_asked
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.sampling import uniform_draws
from r1omni.params_file import read_params
from r1omni.prompts import instruction
from r1omni.training.engine import Engine
from r1omni.training.memory import Memory, estimate_of
from r1omni.training.reference import CopiedReference
from r1omni.training.rolling_out import Models
from r1omni.training.schedules import linear_decay
from r1omni.training.step import take_step

ROOT = Path(__file__).resolve().parents[1]
Shapes = Literal["real", "tiny"]
STEPS = 2
ROOM = 0.9  # of a device's memory that the estimate may take
SETTINGS = ((4, False), (2, False), (1, False), (1, True))  # micro-batch, checkpointing
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchCooperativeKernel")
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
COPIES = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Size:
    """The work of a step, and the matrices by which the device's rate is measured."""

    profile: str
    clips: int
    group_size: int
    new_tokens: int
    side: int


PAPER = "params/paper.yaml"  # its engine and machine train both
SIZES: dict[Shapes, Size] = {
    "real": Size(PAPER, clips=8, group_size=8, new_tokens=150, side=8192),
    "tiny": Size("params.yaml", clips=2, group_size=2, new_tokens=8, side=256),
}


def read_profile(size: Size) -> Params:
    """The profile of the shapes, with the paper's engine and machine: ZeRO 3 in bfloat16."""
    paper = read_params(ROOT / PAPER)
    how = {"engine": paper.engine, "machine": paper.machine}
    return read_params(ROOT / size.profile).model_copy(update=how)


def expected(
    backbone: HumanOmniBackbone, params: Params, machine: MachineParams, size: Size, on_cuda: bool
) -> Memory:
    """What a training of this size announces (training/memory.py), in one process."""
    return estimate_of(
        backbone,
        machine,
        dtype=params.engine.dtype,
        prompt=prompt_positions(backbone),
        clips=size.clips,
        completion=size.group_size * size.new_tokens,
        has_reference=True,
        samples=True,
        on_cuda=on_cuda,
    )


def state_bytes(trained: int, dtype: str, zero_stage: int) -> int:
    """Bytes of a training state's tensors: float32 moments and weights, of what is trained alone.

    In bfloat16 below ZeRO 3 DeepSpeed writes the bfloat16 weights beside the float32 ones.
    """
    divided_or_whole = dtype == "fp32" or zero_stage == 3
    return trained * (12 if divided_or_whole else 14)


def machine_for(
    backbone: HumanOmniBackbone, params: Params, size: Size, device: torch.device
) -> MachineParams:
    """The profile's machine in one process, with the largest micro-batch that is to fit."""
    given = {"device": device.type, "processes": 1}
    whole = params.machine.model_copy(update=given)
    if device.type != "cuda":
        return whole
    room = ROOM * torch.cuda.get_device_properties(device).total_memory
    for micro_batch_size, checkpointing in SETTINGS:
        how = {"micro_batch_size": micro_batch_size, "gradient_checkpointing": checkpointing}
        whole = whole.model_copy(update=how)
        if expected(backbone, params, whole, size, on_cuda=True).total < room:
            break
    return whole


def measure(device_type: str, shapes: Shapes) -> dict[str, Any]:
    """Both steps, the launches of decoding and the state on disk."""
    size = SIZES[shapes]
    params = read_profile(size)
    device = torch.device(device_type)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[params.engine.dtype]
    rate = square_rate(device, size.side, 20, dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    peak = PeakMemory()
    backbone = build_random(params, device)
    machine = machine_for(backbone, params, size, device)
    needed = expected(backbone, params, machine, size, device.type == "cuda")
    parameters = {
        "all": sum(p.numel() for p in backbone.module.parameters()),
        "trained": sum(p.numel() for p in backbone.module.parameters() if p.requires_grad),
    }
    with tempfile.TemporaryDirectory() as name:
        trainer, steps = _train(backbone, params, machine, size, Path(name))
        trainer.save(Path(name) / "states", "gpu-check")
        state = sum(p.stat().st_size for p in (Path(name) / "states").rglob("*.pt"))
    above = peak.above_start() * 2**20  # before the profiler takes memory of its own
    per_token = launches_per_token(backbone, size, device)
    flop = necessary_flop(
        backbone.model.config.text_config,
        prompt_positions(backbone),
        size.group_size,
        size.new_tokens,
    )
    return {
        "size": asdict(size),
        "dtype": params.engine.dtype,
        "machine": machine.model_dump(),
        "parameters": parameters,
        "prompt": prompt_positions(backbone),
        "steps": steps,
        "tokens": size.clips * size.group_size * size.new_tokens,
        "flop": {part: size.clips * one for part, one in flop.items()},
        "matmul_rate": rate,
        "launches": per_token,
        "peak": above,
        "estimate": asdict(needed),
        "state": state,
        "state_expected": state_bytes(
            parameters["trained"], params.engine.dtype, machine.zero_stage
        ),
    }


def _train(
    backbone: HumanOmniBackbone, params: Params, machine: MachineParams, size: Size, folder: Path
) -> tuple[Engine, list[dict[str, float]]]:
    """The engine after both steps, and each one's metrics with its wall seconds."""
    grpo = params.grpo.model_copy(
        update={
            "steps": STEPS,
            "clips_per_step": size.clips,
            "group_size": size.group_size,
            "max_new_tokens": size.new_tokens,
        }
    )
    reference = CopiedReference(backbone)
    models = Models(
        backbone,
        reference,
        EndlessSampler(backbone),
        machine.prefix,
        machine.gradient_checkpointing,
        alternating_rewards(),
    )
    trainer = Engine(
        backbone.module,
        machine,
        dtype=params.engine.dtype,
        lr=grpo.lr,
        schedule=linear_decay(STEPS, grpo.warmup),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
    )
    reference.follow(backbone)
    store, clips = NoiseStore(backbone.model.config), noise_clips(size.clips, folder)

    def draw(_number: int) -> list[Clip]:
        return clips

    steps = []
    for step in range(1, STEPS + 1):
        clock = Clock()
        with clock.part("step"):
            metrics, _ = take_step(models, trainer, store, draw, grpo, step)
        steps.append({**metrics, "wall": clock.wall["step"]})
    return trainer, steps


def launches_per_token(
    backbone: HumanOmniBackbone, size: Size, device: torch.device
) -> dict[str, float]:
    """Kernels, launches and host syncs for one decoded token of all rows, warm.

    By the difference of two lengths, so that what a whole completion costs once is left out.
    """
    few, many = size.new_tokens // 4, size.new_tokens // 2
    clips = NoiseStore(backbone.model.config).load([str(i) for i in range(size.clips)])
    asked = backbone.ask(clips, [instruction("reasoned")] * size.clips)
    generators = [torch.Generator().manual_seed(i) for i in range(size.clips)]
    draws = uniform_draws(generators, size.group_size, many)
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def run(length: int) -> None:
        with torch.no_grad():
            prefix = prefill_asked(backbone, asked)
        EndlessSampler(backbone).sample(
            asked,
            prefix,
            group_size=size.group_size,
            max_new_tokens=length,
            temperature=1.0,
            draws=draws[:, :, :length],
        )

    run(many)
    found = []
    for length in (few, many):
        with profile(activities=activities) as profiled:
            run(length)
        found.append(count_launches(profiled.events() or ()))
    return {name: (found[1][name] - found[0][name]) / (many - few) for name in found[0]}


def count_launches(events: Iterable[Any]) -> dict[str, int]:
    """Kernels that ran on the device, launches by the host (a graph's is one) and host syncs."""
    counts = {"kernels": 0, "launches": 0, "syncs": 0}
    for event in events:
        if event.device_type == DeviceType.CUDA:
            counts["kernels"] += not event.name.startswith(COPIES)
        else:
            counts["launches"] += event.name.startswith(LAUNCHES)
            counts["syncs"] += event.name.startswith(SYNCS)
    return counts
