"""Memory that GRPO's loss saves for the backward pass at the real 0.5B size, per token.

    python -m benchmarks.activations

Counts the storages that autograd saves in the policy's passes (connector and prompt, then
completions) in bfloat16, for models with 2 and with 4 layers. Their difference is the memory of 2
layers; the real model has 24. Weights are not counted. Needs no GPU; attention on a GPU saves the
same and its logsumexp. Writes benchmarks/sections/activations.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.workload import as_backbone, as_batch, build_workload, moved, real_config
from r1omni.model import HumanOmniConfig
from r1omni.model.backbone import prefill_asked
from r1omni.model.sampling import score_completions
from r1omni.params_file import read_params

ROOT = Path(__file__).resolve().parents[1]
SECTION = ROOT / "benchmarks/sections/activations.md"
PROMPT, G, T = 950, 8, 150  # the real size: 392 video, 500 audio and 58 text positions
FEW, MORE = 2, 4  # layers


@dataclass(frozen=True)
class Saved:
    """Bytes saved for the backward pass: by a clip's prompt, and by its completions."""

    prompt: float
    completions: float


class Counter:
    """Counts the bytes of every storage that autograd saves, each once, without weights."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor itself; it stays alive, so no other storage gets its address."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def saved(
    config: HumanOmniConfig, *, checkpointing: bool, prompt: int, group: int, new: int
) -> Saved:
    """The bytes that one clip's passes save in a policy of this config."""
    text = prompt - config.visual_tokens - config.audio_tokens
    workload = build_workload(config, text_tokens=text)
    workload = moved(workload, torch.device("cpu"), torch.bfloat16)
    policy = workload.policy
    for name, weight in policy.named_parameters():
        weight.requires_grad_("_tower." not in name)
    clip = as_batch(policy, workload.cached())
    ids = torch.randint(3, config.text_config.vocab_size, (1, group, new))
    counter = Counter(policy)
    with torch.autograd.graph.saved_tensors_hooks(counter.keep, lambda tensor: tensor):
        prefix = prefill_asked(as_backbone(policy), clip, checkpointing=checkpointing)
        of_prompt = counter.bytes
        kept = score_completions(
            policy, prefix, ids, torch.ones_like(ids), checkpointing=checkpointing
        )
    found = Saved(of_prompt, counter.bytes - of_prompt)
    del kept, prefix
    return found


def with_layers(config: HumanOmniConfig, layers: int) -> HumanOmniConfig:
    """The config with `layers` layers in the language model, and small towers."""
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = ["full_attention"] * layers
    config.audio_config.encoder_layers = config.vision_config.num_hidden_layers = 1
    return config


def extrapolated(few: Saved, more: Saved, layers: int) -> Saved:
    """The bytes for `layers` layers, extrapolated from those for FEW and MORE layers."""

    def at(a: float, b: float) -> float:
        return a + (b - a) / (MORE - FEW) * (layers - FEW)

    return Saved(at(few.prompt, more.prompt), at(few.completions, more.completions))


def main() -> None:
    """Count with and without gradient checkpointing, and write the section."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    layers = real_config().text_config.num_hidden_layers
    found = {}
    for checkpointing in (False, True):
        few, more = (
            saved(
                with_layers(real_config(), n),
                checkpointing=checkpointing,
                prompt=PROMPT,
                group=G,
                new=T,
            )
            for n in (FEW, MORE)
        )
        found[checkpointing] = extrapolated(few, more, layers)
    text = render(found)
    partial = SECTION.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(SECTION)
    sys.stdout.write(text)


def render(found: dict[bool, Saved]) -> str:
    """The section: per token, per clip, and of the paper profile's micro-batch."""
    paper = read_params(ROOT / "params/paper.yaml")
    size = paper.machine.micro_batch_size or paper.grpo.clips_per_step
    longest = paper.grpo.max_new_tokens
    lines = [
        "## Memory for the backward pass at the real size",
        "",
        "Storages that autograd keeps in the policy's passes, bfloat16, 24 layers by the "
        f"difference of {MORE} and {FEW}; one clip of {PROMPT} positions with {G} completions of "
        f"{T} tokens. "
        "`python -m benchmarks.activations` counted this on the CPU.",
        "",
        "| machine.gradient_checkpointing | MB a prompt position | MB a completion token "
        f"| GB a clip | GB of {size} clips (params/paper.yaml) "
        f"| GB of {size} with every completion of {longest} |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for checkpointing, one in found.items():
        clip = one.prompt + one.completions
        long = one.prompt + one.completions * longest / T
        lines.append(
            f"| {str(checkpointing).lower()} | {one.prompt / PROMPT / 1e6:.2f} | "
            f"{one.completions / G / T / 1e6:.2f} | {clip / 1e9:.2f} | {size * clip / 1e9:.1f} | "
            f"{size * long / 1e9:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
