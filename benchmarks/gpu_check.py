"""All that only a CUDA machine can show, in one command under ten minutes: benchmarks/GPU.md.

    make gpu-check                                   # or: python -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --device cpu --shapes tiny --out FILE     # the same code here

Three parts, each in its own process with a time limit: tests/training/test_cuda.py; decoding and
learning against the CPU (gpu_compare.py); two GRPO steps at the released 0.5B shapes
(gpu_steps.py). A part that fails is on the page, and the exit code is 1. Without a device: 2 (and
make's own, which is 2 for every failure).
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import commit_id
from benchmarks.gpu_page import Part, render
from benchmarks.measuring import machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "benchmarks/GPU.md"
LIMITS = {"tests": 240, "compare": 90, "steps": 150}  # seconds: eight minutes, two for installation
TESTS = "tests/training/test_cuda.py"
COUNTED = ("passed", "failed", "skipped", "errors", "error")


def main() -> None:
    """Run the parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", choices=["real", "tiny"], default="real")
    parser.add_argument("--out", type=Path, help="the page; by default benchmarks/GPU.md")
    parser.add_argument("--part", choices=["compare", "steps"], help="one part in this process")
    options = parser.parse_args()
    if options.part:
        sys.stdout.write(json.dumps(measure(options.part, options.device, options.shapes)) + "\n")
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(f"{no_device()}\n")
        raise SystemExit(2)
    if options.device == "cpu" and (options.out is None or options.out.resolve() == PAGE):
        parser.error("--device cpu needs --out: benchmarks/GPU.md is a GPU's")
    began = time.perf_counter()
    parts = {
        "tests": run(["pytest", "-n", "0", "-q", TESTS], LIMITS["tests"], read=count_results),
        **{
            part: run(
                ["benchmarks.gpu_check", "--part", part, "--device", options.device,
                 "--shapes", options.shapes],
                LIMITS[part],
            )
            for part in ("compare", "steps")
        },
    }  # fmt: skip
    head = heading(options.device, time.perf_counter() - began)
    out = options.out or PAGE
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(render(head, parts, options.device), encoding="utf-8")
    partial.replace(out)
    problems = failures(parts, options.device)
    sys.stdout.write("".join(f"{problem}\n" for problem in problems) + f"{out}\n")
    raise SystemExit(1 if problems else 0)


def measure(part: str, device: str, shapes: str) -> dict[str, Any]:
    """One part's numbers; imports what it needs alone."""
    if device == "cpu":
        torch.set_num_threads(1)
    if part == "compare":
        from benchmarks.gpu_compare import compare

        return compare(torch.device(device))
    from benchmarks.gpu_steps import SIZES
    from benchmarks.gpu_steps import measure as measure_steps

    assert shapes in SIZES
    return measure_steps(device, shapes)


def run(
    module: list[str], limit: float, read: Callable[[str], dict[str, Any]] | None = None
) -> Part:
    """A module's process; `read` makes its output to numbers, by default JSON on the last line."""
    command = [sys.executable, "-m", *module]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its ranks, too
            output, errors = process.communicate()
            end = f"{output[-1500:]}{errors[-1500:]}"
            return Part(limit, {}, f"{end}\nnot done after {limit:g} s, and ended".strip())
    seconds = time.perf_counter() - began
    found = read(output) if read else {}
    if process.returncode:
        end = f"{output[-1500:]}{errors[-1500:]}"
        return Part(seconds, found, f"exit code {process.returncode}\n{end}".strip())
    if read is None:
        last = (output.splitlines() or [""])[-1]
        if not last.startswith("{"):
            return Part(seconds, {}, f"no numbers on its last line: {last[:200]!r}")
        found = json.loads(last)
    return Part(seconds, found)


def count_results(output: str) -> dict[str, int]:
    """pytest's last line as numbers: `3 passed, 1 skipped in 2.1s`."""
    lines = output.strip().splitlines()
    pairs = re.findall(rf"(\d+) ({'|'.join(COUNTED)})\b", lines[-1] if lines else "")
    return {name: int(number) for number, name in pairs}


def failures(parts: dict[str, Part], device: str) -> list[str]:
    """One line for each part that failed, and for each precision that is too far from the CPU.

    On a GPU some test must have passed: pytest's exit code is 0 if all were skipped. Those for two
    devices are skipped on one.
    """
    found = [
        f"{name}: {part.failure.splitlines()[-1]}" for name, part in parts.items() if part.failure
    ]
    counts = parts["tests"].found
    if device == "cuda" and not parts["tests"].failure and not counts.get("passed"):
        found.append(f"tests: none of {TESTS} ran: {counts or 'no result'}")
    for dtype, row in parts["compare"].found.items():
        if not row["holds"]:
            found.append(f"compare: {dtype} is further from the CPU than rounding explains")
    return found


def heading(device: str, seconds: float) -> dict[str, str]:
    """Hardware, versions, date, commit and the check's own time."""
    known = machine()
    gpu = known["device"]
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        gpu = f"{torch.cuda.device_count()} x {gpu}, {memory:.0f} GB each, driver {driver()}"
    return {
        "device": gpu if device == "cuda" else "CPU alone",
        "cpu": known["cpu"],
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda})",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit_id(),
        "took": f"{seconds:.0f} s",
    }


def driver() -> str:
    """The NVIDIA driver's version, or what is known of it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown (no nvidia-smi)"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def no_device() -> str:
    """Why nothing can be checked here, in one line."""
    return (
        f"no CUDA device that torch {torch.__version__} (CUDA {torch.version.cuda}) can use; "
        f"driver: {driver()}"
    )


if __name__ == "__main__":
    main()
