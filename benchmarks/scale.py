"""What 30 thousand, 1 million and 100 million clips take: a table for docs/explanation/scale.md.

    python -m benchmarks.scale

The manifest's time and memory are measured here at two sizes; the rest is arithmetic with rates
that RESULTS.md and docs/how-to/real-data.md have.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from r1omni.corpora.clip import Clip, read_manifest, write_manifest

SIZES = (30_000, 1_000_000, 100_000_000)
MEASURED = (30_000, 300_000)  # clips in a manifest
INGEST = 136.3  # clips a second on one core, RESULTS.md, section Ingestion, 224 x 224, 2 to 3 s
DECODE = 94.0  # the same table: 8 frames and all the sound
FEATURE_MB = 2 * (8 * 196 * 768 + 500 * 1280) / 1e6  # half precision, SigLIP and Whisper
TOWER_TFLOP = 2.56  # a clip's towers, docs/how-to/real-data.md
GPU_TFLOPS = 50.0  # assumed, a card at bfloat16
CORES, CARDS = 64, 8  # of the cluster that the table is for


def measure_manifest(n_clips: int) -> dict[str, float]:
    """Seconds, resident MB and MB on disk of a manifest with so many clips, in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", str(n_clips)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def _read(n_clips: int) -> dict[str, float]:
    clip = Clip("dfew/0", "dfew", "0.mp4", "happy", "train", 1, None, None, 2.5, 25.0, 62, True,
                "0" * 64)  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "manifest.parquet"
        clips = [
            replace(clip, clip_id=f"dfew/{i:09d}", path=f"{i:09d}.mp4", sha256=f"{i:064x}")
            for i in range(n_clips)
        ]
        write_manifest(clips, path)
        del clips
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", str(path)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return {**json.loads(done.stdout), "disk_mb": path.stat().st_size / 1e6}


def _read_alone(path: Path) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    clips = read_manifest(path)
    seconds = time.perf_counter() - began
    resident = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"n": len(clips), "seconds": seconds, "mb": resident}


def table() -> str:
    """The page's table, in Markdown."""
    measured = [measure_manifest(n) for n in MEASURED]
    per_clip = measured[-1]["mb"] / measured[-1]["n"], measured[-1]["seconds"] / measured[-1]["n"]
    rows = [("clips", *(f"{n:,}" for n in SIZES)), ("---", *("--:" for _ in SIZES))]
    for what, hours in (
        (f"ingest, {INGEST:g} clips/s a core, {CORES} cores", 1 / INGEST / CORES / 3600),
        (f"decoding for features, {DECODE:g} clips/s a core, {CORES} cores",
         1 / DECODE / CORES / 3600),
        (f"towers, {TOWER_TFLOP:g} TFLOP a clip, {CARDS} cards at {GPU_TFLOPS:g} TFLOP/s",
         TOWER_TFLOP / GPU_TFLOPS / CARDS / 3600),
        ("reading the manifest, one process", per_clip[1] / 3600),
    ):  # fmt: skip
        rows.append((what, *(_time(hours * n) for n in SIZES)))
    rows.append(("the manifest in memory, each process", *(_size(per_clip[0] * n) for n in SIZES)))
    rows.append((f"features, {FEATURE_MB:.2f} MB a clip", *(_size(FEATURE_MB * n) for n in SIZES)))
    network = FEATURE_MB * 8 / 10_000 / 3600
    rows.append(("features once over 10 Gbit/s", *(_time(network * n) for n in SIZES)))
    found = "; ".join(
        f"{m['n']:,.0f} clips {m['seconds']:.1f} s, {m['mb']:.0f} MB, {m['disk_mb']:.1f} MB on disk"
        for m in measured
    )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"Measured on {platform.processor() or platform.machine()}: "
                      f"a manifest with {found}."])  # fmt: skip


def _time(hours: float) -> str:
    for size, unit in ((1 / 60, "s"), (1.0, "min"), (48.0, "h")):
        if hours < size:
            return f"{hours * {'s': 3600, 'min': 60, 'h': 1}[unit]:.0f} {unit}"
    return f"{hours / 24:.0f} d"


def _size(mb: float) -> str:
    if mb < 1e3:
        return f"{mb:.0f} MB"
    return f"{mb / 1e3:.0f} GB" if mb < 1e6 else f"{mb / 1e6:.1f} TB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the table of docs/explanation/scale.md.")
    parser.add_argument("argument", nargs="?", default="", help=argparse.SUPPRESS)  # its own runs'
    argument: str = parser.parse_args().argument
    if argument.isdecimal():
        sys.stdout.write(json.dumps(_read(int(argument))))
    elif argument:
        sys.stdout.write(json.dumps(_read_alone(Path(argument))))
    else:
        sys.stdout.write(f"{table()}\n")
