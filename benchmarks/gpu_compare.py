"""Decoding and learning on a device against the CPU, in float32 and bfloat16, on the tiny model.

Weights and draws are the same on both. Learned from are the CPU's completions, so that one token
that falls otherwise does not change everything after it. In bfloat16 the yardstick is the CPU's own
distance from float32: the device may be as far from the CPU as that three times.
"""

import tempfile
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.random_model import (
    EndlessSampler,
    NoiseStore,
    alternating_rewards,
    build_random,
    noise_clips,
)
from r1omni.config import Params
from r1omni.corpora.clip import Clip
from r1omni.model.feature_store import Features
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.sampling import Decoded
from r1omni.params_file import read_params
from r1omni.training.engine import in_precision
from r1omni.training.reference import CopiedReference
from r1omni.training.rolling_out import Models, learn, roll_out
from r1omni.training_config import GRPOParams

ROOT = Path(__file__).resolve().parents[1]
DType = Literal["fp32", "bf16"]
CLIPS, NEW_TOKENS = 4, 24
# float32: of the gradient relative to its norm, of log probabilities in nats. cuDNN's convolutions,
# in the connector, take TF32 by default: 10 bits after the point.
TOLERANCE = 5e-3
YARDSTICKS = 3.0  # bfloat16: of the CPU's distance from its own float32
DRIFT = 0.02  # the reference's weights differ by so much, so that the KL term has a gradient
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Learned:
    """What a device sampled, and the loss and gradient of completions that were given."""

    sampled: Decoded
    loss: float
    gradient: Tensor  # all trained weights, end to end, float32 on the CPU


@dataclass(frozen=True)
class Distance:
    """How far one device or precision is from another."""

    same_tokens: float  # share of the sampled tokens up to a completion's first other one
    logprobs: float  # largest difference of a sampled token's, in nats, before it
    loss: float  # absolute
    gradient: float  # norm of the difference over the norm


def compare(device: torch.device) -> dict[str, dict[str, object]]:
    """Each precision's distance between the device and the CPU, its bound, and whether it holds."""
    params = read_params(ROOT / "params.yaml")
    start = build_random(params, CPU)
    dtypes: tuple[DType, ...] = ("fp32", "bf16")
    here = {dtype: learned(start, params, CPU, dtype, None) for dtype in dtypes}
    rounded = learned(start, params, CPU, "bf16", here["fp32"].sampled)
    own = distance(rounded, here["fp32"])
    bounds: dict[DType, tuple[float, float]] = {
        "fp32": (TOLERANCE, TOLERANCE),
        "bf16": (YARDSTICKS * own.logprobs, YARDSTICKS * own.gradient),
    }
    found: dict[str, dict[str, object]] = {}
    for dtype, (logprobs, gradient) in bounds.items():
        there = learned(start, params, device, dtype, here[dtype].sampled)
        found[dtype] = judged(distance(there, here[dtype]), logprobs, gradient)
    return found


def judged(apart: Distance, logprobs: float, gradient: float) -> dict[str, object]:
    """The distance with its bounds, and whether it is within both."""
    return {
        **vars(apart),
        "logprobs_bound": logprobs,
        "gradient_bound": gradient,
        "holds": apart.gradient <= gradient and apart.logprobs <= logprobs,
    }


def learned(
    start: HumanOmniBackbone,
    params: Params,
    device: torch.device,
    dtype: DType,
    given: Decoded | None,
) -> Learned:
    """One GRPO step's sampling, loss and gradient on a device; learned from are `given`, if any."""
    policy = HumanOmniBackbone(deepcopy(start.model), start.processor)
    reference = CopiedReference(policy)
    with torch.no_grad():
        for index, parameter in enumerate(p for p in policy.model.parameters() if p.requires_grad):
            parameter.mul_(1.0 + DRIFT * (index % 3 - 1))
    in_precision(policy.model, dtype).to(device)
    reference.follow(policy)
    sampler, rewards = EndlessSampler(policy), alternating_rewards()
    models = Models(policy, reference, sampler, rewards=rewards)
    rolled = roll_out(models, *_batch(policy), _grpo(params), 1, range(CLIPS))
    sampled = rolled.completions
    if given is not None:
        tensors = {name: tensor.to(device) for name, tensor in vars(given).items()}
        rolled = replace(rolled, completions=Decoded(**tensors))
    compared = learn(models, rolled, _grpo(params))
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(compared.loss, trained, allow_unused=True)
    whole = [
        (torch.zeros_like(p) if g is None else g).float().flatten().cpu()
        for p, g in zip(trained, gradient, strict=True)
    ]
    on_host = Decoded(**{name: tensor.cpu() for name, tensor in vars(sampled).items()})
    return Learned(on_host, float(compared.loss.detach()), torch.cat(whole))


def distance(one: Learned, other: Learned) -> Distance:
    """How far `one` is from `other`."""
    same = (one.sampled.token_ids == other.sampled.token_ids).cumprod(dim=2)  # (P, G, T)
    gap = (one.sampled.logprobs - other.sampled.logprobs).abs() * same
    norm = torch.linalg.vector_norm
    return Distance(
        float(same.float().mean()),
        float(gap.max()),
        abs(one.loss - other.loss),
        float(norm(one.gradient - other.gradient) / norm(other.gradient)),
    )


def _batch(policy: HumanOmniBackbone) -> tuple[list[Features], list[Clip]]:
    with tempfile.TemporaryDirectory() as name:
        clips = noise_clips(CLIPS, Path(name))
    return NoiseStore(policy.model.config).load([clip.clip_id for clip in clips]), clips


def _grpo(params: Params) -> GRPOParams:
    small = {"clips_per_step": CLIPS, "group_size": 4, "max_new_tokens": NEW_TOKENS}
    return params.grpo.model_copy(update=small)
