"""What memory a training will need on its device, said before the first step.

The engine keeps all weights and its own gradient on every rank (engine.py), the optimiser's state
is shared from ZeRO 1 on; ZeRO 3 keeps its share of the trained weights, and of the gradient, beside
the whole ones.
Activations are counted by position: of each layer, what the backward pass reads again. For the
released 0.5B shapes in bfloat16 that makes 1.32 MB, and 0.21 with checkpointing;
benchmarks/activations.py measures 1.3 and 0.26 on the CPU.
"""

import logging
import os
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import torch
from rich.console import Console

from r1omni.config import MachineParams
from r1omni.machine.environment import is_first, world_size
from r1omni.model.backbone import Backbone, PromptBatch, device_of
from r1omni.model.fused_weights import can_fuse, count_fused

_log = logging.getLogger(__name__)
KEPT_OF_WIDTH: Final = 12  # per layer and position: norms' in- and outputs, q, k, v, attended, sums
KEPT_OF_FEED_FORWARD: Final = 3  # gate, up, the product (feed_forward.py)
KEPT_BY_CHECKPOINTING: Final = 1.3  # of D: a layer's input, keys and values
GRADIENTS: Final = 2  # of what one layer keeps, while its backward pass runs
WORKSPACE: Final = 2.5e9  # bytes on a GPU: CUDA's own, blocks of scores and of logits
BUCKET: Final = 500_000_000  # gradients that DeepSpeed's ZeRO reduces at once


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float  # of learning, or the keys and values of sampling where those take more
    workspace: float

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))

    def render(self) -> str:
        """In GB: `5.1 GB: weights 1.2, gradients 1.2, …`; what needs nothing is left out."""
        parts = {field.name: getattr(self, field.name) / 1e9 for field in fields(self)}
        named = ", ".join(f"{name} {size:.2g}" for name, size in parts.items() if size)
        return f"{self.total / 1e9:.2g} GB: {named}"


@dataclass(frozen=True)
class Workload:
    """What a rank works on in one step: micro-batches to learn from, and clips sampled at once."""

    clips: int  # of a micro-batch
    prompt: int  # positions of a clip's expanded prompt
    completion: int  # tokens of all completions of a clip, at most
    micro_batches: int
    sampled: int = 0  # clips whose completions are decoded together
    cached: int = 0  # numbers that a layer keeps of a position while decoding: keys and values
    copied: int = 0  # numbers that decoding copies: a GPU's fused weights, and the prompts' cache


def estimate(
    *,
    weights: int,
    trained: int,
    reference: int,
    layers: int,
    width: int,
    feed_forward: int,
    work: Workload,
    dtype: Literal["fp32", "bf16"],
    zero_stage: int,
    processes: int,
    offload: bool,
    checkpointing: bool,
    workspace: float,
) -> Memory:
    """The memory of one rank; `weights`, `trained` and `reference` are numbers of parameters."""
    element = 4 if dtype == "fp32" else 2
    gradient = 4 if work.micro_batches > 1 else element  # several are averaged in float32
    state = 8 if dtype == "fp32" and zero_stage == 0 else 12  # moments, and weights in float32
    kept = KEPT_OF_WIDTH * width + KEPT_OF_FEED_FORWARD * feed_forward
    per_layer = KEPT_BY_CHECKPOINTING * width if checkpointing else kept
    positions = work.clips * (work.prompt + work.completion)
    # one layer's gradients; with checkpointing it is made whole again for them
    at_once = (GRADIENTS + checkpointing) * kept
    cache = layers * work.cached * work.sampled * (work.prompt + work.completion) + work.copied
    divided = trained / processes if zero_stage == 3 else 0.0
    return Memory(
        weights=element * (weights + divided),
        gradients=gradient * trained + (0.0 if offload else element * divided),
        optimizer=0 if offload else state * trained / (processes if zero_stage else 1),
        reference=element * reference,
        activations=element * max((layers * per_layer + at_once) * positions, cache),
        workspace=workspace,
    )


def announce_memory(
    name: str,
    backbone: Backbone,
    machine: MachineParams,
    *,
    dtype: Literal["fp32", "bf16"],
    example: PromptBatch,
    clips: int,
    completion: int,
    has_reference: bool = False,
    samples: bool = False,
) -> None:
    """Print what the training `name` needs on each device, and what to change if that is too much.

    `example`: the longest prompt; `clips`: of a step's global batch; `completion`: tokens of all
    of a clip's completions, at most; `samples`: they are decoded first, those of a rank together.
    Every rank calls it; the first prints the largest rank's.
    """
    with torch.no_grad():
        prompt = backbone.embed(example).embeds.shape[1]
    if not is_first():
        return
    device = device_of(backbone)
    needed = estimate_of(
        backbone,
        machine,
        dtype=dtype,
        prompt=prompt,
        clips=clips,
        completion=completion,
        has_reference=has_reference,
        samples=samples,
        on_cuda=device.type == "cuda",
    )
    there = _capacity(device)
    Console(stderr=True).print(
        f"{name}: about {needed.render()}; {device.type} has {there / 1e9:.0f} GB",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if needed.total > there:
        _, at_once = _at_once(machine, clips)
        _log.warning("%s may not fit: %s", name, "; ".join(_advice(machine, dtype, at_once)))


def estimate_of(
    backbone: Backbone,
    machine: MachineParams,
    *,
    dtype: Literal["fp32", "bf16"],
    prompt: int,
    clips: int,
    completion: int,
    has_reference: bool,
    samples: bool,
    on_cuda: bool,
) -> Memory:
    """The memory of the largest rank, from the backbone's shapes; its weights may be on `meta`.

    `prompt`: positions of a clip's prompt; the rest as in `announce_memory`.
    """
    share, at_once = _at_once(machine, clips)
    language_model = backbone.language_model.model
    parameters = list(backbone.module.parameters())
    towers = sum(p.numel() for tower in backbone.towers() for p in tower.parameters())
    weights = sum(p.numel() for p in parameters)
    config = language_model.config
    cached = _count_cached(config)
    copies = samples and on_cuda and can_fuse(language_model)
    return estimate(
        weights=weights,
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        reference=weights - towers if has_reference else 0,  # as frozen_copy
        layers=len(language_model.layers),
        width=config.hidden_size,
        feed_forward=config.intermediate_size,
        work=Workload(
            at_once,
            prompt,
            completion,
            -(-share // at_once),
            sampled=share if samples else 0,
            cached=cached,
            copied=_count_copied(language_model, cached * share * prompt) if copies else 0,
        ),
        dtype=dtype,
        zero_stage=machine.zero_stage,
        processes=world_size(),
        offload=machine.offload_optimizer == "cpu" and on_cuda,
        checkpointing=machine.gradient_checkpointing,
        workspace=on_cuda * (WORKSPACE + _bucket(machine, dtype)),
    )


def _at_once(machine: MachineParams, clips: int) -> tuple[int, int]:
    """The clips of the largest rank's share of a step, and of its micro-batch."""
    share = -(-clips // world_size())
    return share, min(machine.micro_batch_size or share, share)


def _bucket(machine: MachineParams, dtype: str) -> float:
    return BUCKET * (4 if dtype == "fp32" else 2) if machine.zero_stage else 0.0


def _count_cached(config: Any) -> int:
    """Numbers that a layer keeps of a position while decoding."""
    return int(2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads)


def _count_copied(language_model: Any, cached: int) -> int:
    """Numbers that decoding copies on a GPU; `cached`: that a layer keeps of all prompts."""
    return count_fused(language_model) + len(language_model.layers) * cached


def _advice(machine: MachineParams, dtype: str, largest: int) -> list[str]:
    """What would need less, what costs nothing in what is learned first."""
    return [
        *(["set machine.gradient_checkpointing"] * (not machine.gradient_checkpointing)),
        *([f"set machine.micro_batch_size below {largest}"] * (largest > 1)),
        *(["set machine.zero_stage to 1 or more, with more processes"] * (machine.zero_stage == 0)),
        *(["set machine.offload_optimizer: cpu"] * (machine.offload_optimizer == "none")),
        *(["set engine.dtype: bf16"] * (dtype == "fp32")),
    ] or ["take a device with more memory"]


def _capacity(device: torch.device) -> float:
    """Bytes of memory that one rank can use at most."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole / world_size()
