"""A fast step's time by kind of operation: torch's profiler on one warm step.

    python -m benchmarks.where_time_goes

One process, one JSON object on stdout.
"""

import json
import sys
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import Clock
from benchmarks.one_step import How, Step, fast_step
from benchmarks.workload import build_workload, midsize_config

G, T = 8, 128
# Prefixes of torch's names for operations; all other operations are elementwise work.
KINDS = {
    "matrix products": (
        *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product"),
        *("aten::mkldnn_convolution", "aten::slow_conv", "mkldnn::_linear", "aten::convolution"),
    ),
    "exp and softmax": ("aten::exp", "aten::_softmax", "aten::_log_softmax"),
    "copies, fills and gathers": (
        *("aten::copy_", "aten::cat", "aten::index", "aten::gather", "aten::clone", "aten::fill_"),
        *("aten::zero_", "aten::scatter", "aten::masked_", "aten::embedding", "aten::roll"),
    ),
    "views and allocation": (
        *("aten::as_strided", "aten::view", "aten::reshape", "aten::transpose", "aten::expand"),
        *("aten::empty", "aten::slice", "aten::select", "aten::permute", "aten::unsqueeze"),
        *("aten::squeeze", "aten::t", "aten::detach", "aten::_unsafe_view", "aten::resize_"),
    ),
    "reductions": ("aten::sum", "aten::mean", "aten::amax", "aten::max", "aten::cumsum"),
}
ELEMENTWISE, PYTHON = "elementwise work", "Python and the profiler itself"


def main() -> None:
    """Measure one step."""
    torch.set_num_threads(1)
    workload = build_workload(midsize_config())
    workload = replace(workload, clips=workload.cached())
    step = fast_step(workload, G, T, How(1, False, False))
    sys.stdout.write(json.dumps(measure(step)) + "\n")


def measure(step: Step) -> dict[str, object]:
    """Seconds of wall time by kind of operation, of a warm step."""
    step(Clock())
    clock = Clock()
    with profile(activities=[ProfilerActivity.CPU]) as profiled, clock.part("step"):
        step(clock)
    seconds = dict.fromkeys((*KINDS, ELEMENTWISE), 0.0)
    for event in profiled.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    whole = clock.wall["step"]
    seconds[PYTHON] = max(0.0, whole - sum(seconds.values()))
    shown = sorted(seconds.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{kind} {second / whole:.0%}" for kind, second in shown)
    return {
        "profiled_wall": whole,
        "profiled_seconds": seconds,
        "note": f"of a profiled step's {whole:.1f} s of wall time: {parts}.",
    }


def kind_of(operation: str) -> str:
    """The kind of an operation by torch's name for it."""
    for kind, beginnings in KINDS.items():
        if operation.startswith(beginnings):
            return kind
    return ELEMENTWISE


if __name__ == "__main__":
    main()
