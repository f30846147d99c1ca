"""Measures one implementation of a GRPO step in one process: a JSON object per step on stdout.

    python -m benchmarks.one_step fast --cached --steps 2

The first step of a process gives its peak memory. Later, warm steps give the time of the fast
implementations; for the slow ones it is the first step after a small warm-up. The loss is computed
on fixed completions, so its value can be compared; sampling is timed, too.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import textbook
from benchmarks.flops import necessary_flop
from benchmarks.measuring import Clock, PeakMemory
from benchmarks.workload import (
    KL_COEF,
    TEXT_TOKENS,
    Workload,
    advantages_of,
    as_backbone,
    as_batch,
    build_workload,
    default_config,
    growth_config,
    midsize_config,
    moved,
    real_config,
    text_only,
)
from r1omni.model import HumanOmniConfig
from r1omni.model.backbone import PromptBatch
from r1omni.model.sampling import Decoded, decode, uniform_draws
from r1omni.model.shared_prefix import Prefix, prefill
from r1omni.training.group_loss import group_loss
from r1omni.training.rollouts import Rollouts

Step = Callable[[Clock], float]
NO_END = -1  # no token is the end token
PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["textbook", "fast", "trl"])
    parser.add_argument("--cached", action="store_true", help="fast: towers' outputs are given")
    parser.add_argument("--text", action="store_true", help="fast: the language model alone")
    parser.add_argument("--recompute", action="store_true", help="fast: grpo.prefix: recompute")
    parser.add_argument("--checkpointing", action="store_true", help="fast: of gradients")
    parser.add_argument("--steps", type=int, default=1, help="timed, after the first")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, help="fast: clips to learn from at once")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, help="positions, with little media; 250 or more")
    parser.add_argument("--real", action="store_true", help="the 0.5B shapes, bfloat16")
    parser.add_argument("--default", action="store_true", help="the model of params.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if options.real and torch.cuda.is_available() else "cpu")
    if options.way == "trl":
        from benchmarks.trl_step import measure_trl

        report(measure_trl(options.group_size, options.new_tokens))
        return
    config = growth_config() if options.prompt else midsize_config()
    if options.real:
        config = real_config()
    text_tokens = TEXT_TOKENS
    if options.default:
        config, text_tokens = default_config(PARAMS)
    media = config.visual_tokens + config.audio_tokens
    text = options.prompt - media if options.prompt else text_tokens
    workload = build_workload(config, options.clips, text)
    if options.real:
        workload = moved(workload, device, torch.bfloat16)
    workload.policy.requires_grad_(True)
    for tower in (workload.policy.model.vision_tower, workload.policy.model.audio_tower):
        tower.requires_grad_(False)
    if options.way == "textbook":
        warm = textbook_step(workload, group_size=2, new_tokens=2)
        warm(Clock())
        run = textbook_step(workload, options.group_size, options.new_tokens)
        steps = options.steps if options.real else 0  # on a GPU its memory is found in the first
    else:
        if options.text:
            clips = [text_only(config, seed) for seed in range(options.clips)]
            workload = moved(replace(workload, clips=clips), device, workload.policy.dtype)
        elif options.cached:
            workload = replace(workload, clips=workload.cached())
        how = How(options.micro_batch or options.clips, options.recompute, options.checkpointing)
        run = fast_step(workload, options.group_size, options.new_tokens, how)
        steps = options.steps
    count = counted(config, text + media, options.clips, options.group_size, options.new_tokens)
    first = measured(run, workload)
    report({**first, **count, "warm": steps == 0})
    for _ in range(steps):
        report({**measured(run, workload), **count, "warm": True})


def counted(
    config: HumanOmniConfig, prompt: int, n_clips: int, group_size: int, new_tokens: int
) -> dict[str, object]:
    """The number of tokens that a step samples, and its necessary FLOP by part (flops.py)."""
    each = necessary_flop(config.text_config, prompt, group_size, new_tokens)
    return {
        "tokens": n_clips * group_size * new_tokens,
        "flop": {part: n_clips * flop for part, flop in each.items()},
    }


def report(row: dict[str, object]) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def measured(run: Step, workload: Workload) -> dict[str, object]:
    """One step's CPU and wall seconds, peak memory, loss and gradient norm."""
    workload.policy.zero_grad(set_to_none=True)
    clock, peak = Clock(), PeakMemory()
    with clock.part("step"):
        loss = run(clock)
    grads = [p.grad for p in workload.policy.parameters() if p.grad is not None]
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    return {
        "cpu": clock.cpu.pop("step"),
        "wall": clock.wall.pop("step"),
        "peak_mib": peak.above_start(),
        "cpu_parts": clock.cpu,
        "wall_parts": clock.wall,
        "loss": loss,
        "grad_norm": norm.item(),
    }


def completions_of(vocab: int, n_clips: int, group_size: int, new_tokens: int) -> torch.Tensor:
    """The fixed completions: (P, G, T)."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, vocab, (n_clips, group_size, new_tokens), generator=generator)


def textbook_step(workload: Workload, group_size: int, new_tokens: int) -> Step:
    """The textbook's step: everything for every completion in every pass, clip by clip."""
    vocab = workload.policy.config.text_config.vocab_size
    device = workload.policy.device
    ids = completions_of(vocab, len(workload.clips), group_size, new_tokens).to(device)
    watched: list[Clock] = []
    for model in (workload.policy, workload.reference):
        textbook.use_library_layers(model)

    def run(clock: Clock) -> float:
        if not watched:
            for model in (workload.policy.model, workload.reference.model):
                vision = model.vision_tower.vision_tower["vision_model"]
                clock.watch("towers", vision, model.audio_tower.audio_tower["encoder"])
            watched.append(clock)
        generator, total = torch.Generator(device).manual_seed(0), 0.0
        for clip, own in zip(workload.clips, ids, strict=True):
            with clock.part("generate"):
                textbook.generate(
                    workload.policy,
                    clip,
                    group_size=group_size,
                    max_new_tokens=new_tokens,
                    temperature=1.0,
                    generator=generator,
                )
            rewards = torch.arange(group_size, device=device).float()
            rollouts = textbook.Rollouts(own, torch.ones_like(own), rewards)
            with clock.part("policy and reference forward"):
                step = textbook.grpo_step(
                    workload.policy, workload.reference, [clip], [rollouts], kl_coef=KL_COEF
                )
            with clock.part("backward"):
                (step.loss / len(workload.clips)).backward()
            total += step.loss.item() / len(workload.clips)
        return total

    return run


@dataclass(frozen=True)
class How:
    """The choices of params.yaml that affect time and memory only, by the same names."""

    micro_batch_size: int
    recompute: bool  # grpo.prefix
    checkpointing: bool


def without_end(ids: torch.Tensor) -> Decoded:
    """Completions (P, G, T) as if sampled: none has ended, each token was certain."""
    finished = torch.zeros(ids.shape[:2], dtype=torch.bool, device=ids.device)
    certain = torch.zeros(ids.shape, device=ids.device)
    return Decoded(ids, certain, torch.ones_like(ids), finished)


def fast_step(workload: Workload, group_size: int, new_tokens: int, how: How) -> Step:
    """The step of the `grpo` stage for a batch of clips (training/step.py: learn_share)."""
    policy, P, size = workload.policy, len(workload.clips), how.micro_batch_size
    vocab = policy.config.text_config.vocab_size
    all_ids = completions_of(vocab, P, group_size, new_tokens).to(policy.device)
    learner, reference = as_backbone(policy), nullcontext(as_backbone(workload.reference))

    def rolled(clock: Clock, clips: list[textbook.Prompt]) -> tuple[PromptBatch, Prefix]:
        with clock.part("towers"):
            prompts = as_batch(policy, clips)
        with clock.part("connector"):
            embedded = learner.embed(prompts)
        with clock.part("prefill"):
            prefix = prefill(policy.model, embedded, checkpointing=how.checkpointing)
        with clock.part("decode"):
            sample(workload, prefix, group_size, new_tokens, temperature=1.0)
        return prompts, prefix

    def micro_batches(clock: Clock) -> Iterator[tuple[PromptBatch, Prefix | None]]:
        parts = [range(start, min(P, start + size)) for start in range(0, P, size)]
        if not how.recompute:
            yield from (rolled(clock, [workload.clips[i] for i in part]) for part in parts)
            return
        with torch.no_grad():
            prompts, _ = rolled(clock, workload.clips)
        for part in parts:
            yield prompts.select(part), None

    def run(clock: Clock) -> float:
        total, done = 0.0, 0
        for prompts, prefix in micro_batches(clock):
            n = len(prompts)
            ids, done = all_ids[done : done + n], done + n
            with clock.part("policy and reference forward"):
                compared = group_loss(
                    learner,
                    reference,
                    Rollouts(
                        prompts,
                        prefix,
                        without_end(ids),
                        advantages_of(n, group_size).to(policy.device),
                    ),
                    temperature=1.0,
                    kl_coef=KL_COEF,
                    checkpointing=how.checkpointing,
                )
            with clock.part("backward"):
                (compared.loss * n / P).backward()
            total += compared.loss.item() * n / P
            del prompts, prefix, compared
        return total

    return run


def sample(
    workload: Workload, prefix: Prefix, group_size: int, new_tokens: int, temperature: float
) -> torch.Tensor:
    """Completions that never end: (P, G, T)."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(prefix.start))]
    return decode(
        workload.policy,
        prefix,
        group_size=group_size,
        max_new_tokens=new_tokens,
        eos_token_id=NO_END,
        temperature=temperature,
        draws=uniform_draws(generators, group_size, new_tokens),
    ).token_ids


if __name__ == "__main__":
    main()
