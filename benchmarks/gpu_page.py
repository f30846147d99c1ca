"""The page of gpu_check.py: numbers to Markdown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """What one process found, or how it failed."""

    seconds: float
    found: dict[str, Any]
    failure: str = ""  # its exit code and the end of its output, or why it has no numbers


def render(head: Mapping[str, str], parts: Mapping[str, Part], device: str) -> str:
    """The whole page."""
    what = "a GPU" if device == "cuda" else "a CPU, to exercise the code: no number is a GPU's"
    command = "`make gpu-check`" if device == "cuda" else "`python -m benchmarks.gpu_check`"
    lines = [
        "# What a GPU shows" if device == "cuda" else "# gpu-check on a CPU",
        "",
        f"{command} wrote this on {what}. " + " · ".join(f"{k} {v}" for k, v in head.items()),
        "",
        "## Tests",
        "",
        *_tests(parts["tests"]),
        "",
        "## Against the CPU",
        "",
        *_compared(parts["compare"]),
        "",
        "## Two GRPO steps on random weights",
        "",
        *_steps(parts["steps"], device),
    ]
    return "\n".join(lines) + "\n"


def _tests(part: Part) -> list[str]:
    counts = ", ".join(f"{n} {name}" for name, n in part.found.items()) or "no result"
    return [f"tests/training/test_cuda.py: {counts}, {part.seconds:.0f} s.", *_failure(part)]


def _failure(part: Part) -> list[str]:
    return ["", "FAILED:", "", "```", part.failure, "```"] if part.failure else []


def _compared(part: Part) -> list[str]:
    if part.failure:
        return _failure(part)
    lines = [
        "The tiny model of params.yaml, the same weights and draws; the gradient is of the CPU's "
        "completions. bfloat16's bounds are three times the CPU's own distance from float32.",
        "",
        "| precision | same tokens | log probabilities, nats (bound) | loss | gradient (bound) "
        "| within |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for dtype, row in part.found.items():
        lines.append(
            f"| {dtype} | {row['same_tokens']:.1%} | {row['logprobs']:.2g} "
            f"({row['logprobs_bound']:.2g}) | {row['loss']:.2g} | {row['gradient']:.2g} "
            f"({row['gradient_bound']:.2g}) | {'yes' if row['holds'] else 'NO'} |"
        )
    return lines


def _steps(part: Part, device: str) -> list[str]:
    if part.failure:
        return _failure(part)
    found, size = part.found, part.found["size"]
    machine, n = found["machine"], found["parameters"]
    again = "on" if machine["gradient_checkpointing"] else "off"
    return [
        f"{size['profile']}: {n['all']:,} parameters, {n['trained']:,} trained, {found['dtype']}, "
        f"ZeRO {machine['zero_stage']}, prefix {machine['prefix']}; {size['clips']} clips a step "
        f"in micro-batches of {machine['micro_batch_size'] or size['clips']}, gradient "
        f"checkpointing {again}; prompt of {found['prompt']} "
        f"positions, {size['group_size']} completions of {size['new_tokens']} tokens that never "
        "end. The step is the stage's own (training/step.py) with DeepSpeed's engine; towers are "
        "not run.",
        "",
        *_speed(found),
        "",
        f"Products of {size['side']} x {size['side']} in {found['dtype']} run at "
        f"{found['matmul_rate'] / 1e12:.3g} TFLOP/s here: MFU is the necessary FLOP "
        "(benchmarks/flops.py) over the seconds and this rate. `learn` has everything between "
        "decoding and the update.",
        "",
        _launches(found["launches"], device),
        "",
        *_memory(found),
    ]


def _speed(found: Mapping[str, Any]) -> list[str]:
    lines = ["| step | part | s | tokens/s | MFU |", "|--:|---|--:|--:|--:|"]
    for number, step in enumerate(found["steps"], start=1):
        learn = step["time/step"] - sum(step[t] for t in ("time/prefill", "time/sample"))
        learn -= step["time/update"]
        flop = found["flop"]
        rows = {
            "whole": (step["wall"], sum(flop.values())),
            "prefill": (step["time/prefill"], flop["prefill"]),
            "decode": (step["time/sample"], flop["decode"]),
            "learn": (learn, flop["policy and reference forward"] + flop["backward"]),
            "update": (step["time/update"], 0.0),
        }
        for name, (seconds, needed) in rows.items():
            speed = f"{found['tokens'] / seconds:.0f}" if name in ("whole", "decode") else ""
            used = f"{needed / seconds / found['matmul_rate']:.1%}" if needed else ""
            lines.append(f"| {number} | {name} | {seconds:.3f} | {speed} | {used} |")
    return lines


def _launches(counts: Mapping[str, float], device: str) -> str:
    if device != "cuda":
        return "Launches a decoded token: a CPU has none."
    return (
        f"A decoded token of all rows takes {counts['launches']:.1f} launches, "
        f"{counts['kernels']:.1f} kernels and {counts['syncs']:.2f} host syncs (torch.profiler)."
    )


def _memory(found: Mapping[str, Any]) -> list[str]:
    lines = ["| memory | GB |", "|---|--:|"]
    lines += [f"| {name} | {size / 1e9:.3f} |" for name, size in found["estimate"].items()]
    total = sum(found["estimate"].values())
    lines += [
        f"| **estimate** (training/memory.py) | {total / 1e9:.3f} |",
        f"| **measured peak** above the start | {found['peak'] / 1e9:.3f} |",
        f"| training state on disk | {found['state'] / 1e9:.3f} |",
        f"| its tensors, by arithmetic | {found['state_expected'] / 1e9:.3f} |",
    ]
    return lines
