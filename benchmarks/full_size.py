"""The real 0.5B size on this machine's CPU: a checkpoint is converted, and one clip is answered.

    nice -n 19 python benchmarks/full_size.py

Random weights of the released shapes (params/paper.yaml), bfloat16, written in the original layout
to a temporary folder. Every step is a process of its own, so that its peak memory is its own.
Writes benchmarks/sections/full_size.md and .json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = ROOT / "benchmarks/sections/full_size"
STEPS = ("write", "convert", "predict")
NEW_TOKENS = 32
GIB = 2**30


def main() -> None:
    """Run the steps one after another and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--step", choices=STEPS, help="one step in this process, its numbers out")
    arguments = parser.parse_args()
    if arguments.step:
        sys.stdout.write(json.dumps(measure(arguments.step, arguments.folder)) + "\n")
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        rows = [in_a_process(step, Path(name)) for step in STEPS]
    SECTION.parent.mkdir(exist_ok=True)
    SECTION.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    SECTION.with_suffix(".md").write_text(render(rows))


def in_a_process(step: str, folder: Path) -> dict[str, object]:
    """The numbers that `measure` gives in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True
    )
    numbers: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{numbers}\n")
    return numbers


def measure(step: str, folder: Path) -> dict[str, object]:
    """What the step did, with its wall and CPU seconds (imports left out) and its peak memory."""
    import torch

    import r1omni.training.base  # noqa: F401  what all steps import

    torch.set_num_threads(1)
    imported = peak()
    wall, cpu = time.perf_counter(), time.process_time()
    did = {"write": write, "convert": convert, "predict": predict}[step](folder)
    return {
        "step": step,
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gib": round(peak() / GIB, 2),
        "peak_gib_after_imports": round(imported / GIB, 2),
        **did,
    }


def write(folder: Path) -> dict[str, object]:
    """A random checkpoint of the released shapes in the original layout."""
    import torch

    from benchmarks.original_layout import write_original
    from r1omni.config import read_params
    from r1omni.model import HumanOmniForConditionalGeneration
    from r1omni.model.configuration import build_config
    from r1omni.model.processor import build_processor, train_gate_tokenizer, train_tokenizer

    params = read_params(ROOT / "params/paper.yaml")
    texts = ["A face and a voice.", "happy", "sad"]
    processor = build_processor(
        params.media, train_tokenizer(texts, 400), train_gate_tokenizer(texts)
    )
    config = build_config(
        params.model,
        params.media,
        vocab_size=params.model.max_vocab_size,
        gate_vocab_size=30522,
        eos_token_id=processor.eos_token_id,
        pad_token_id=processor.pad_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = HumanOmniForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    write_original(model, processor, folder / "original")
    size = sum(file.stat().st_size for file in (folder / "original").rglob("*") if file.is_file())
    n = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": n, "gib_on_disk": round(size / GIB, 2)}


def convert(folder: Path) -> dict[str, object]:
    """Stage `base`: the original directory -> our checkpoint."""
    from r1omni.config import read_params
    from r1omni.training.base import run_base
    from r1omni.training.journal import TrainingPaths

    params = read_params(ROOT / "params/paper.yaml")
    run_base(
        folder / "original",
        folder / "unread.parquet",
        TrainingPaths(folder / "base", folder / "training", folder / ".state"),
        base=params.base,
        model=params.model,
        media=params.media,
        engine=params.engine.model_copy(update={"device": "cpu"}),
        log=lambda _step, _metrics: None,
    )
    account = json.loads((folder / "training/conversion.json").read_text())
    return {"tensors_used": len(account["used"])}


def predict(folder: Path) -> dict[str, object]:
    """One clip of a second, 256 x 256 with sound, answered in NEW_TOKENS tokens, labels scored."""
    sys.path.insert(0, str(ROOT / "tests"))
    from clip_files import write_clip

    from r1omni.config import PredictParams
    from r1omni.emotions import LABELS
    from r1omni.evaluation.answer import Answer, answer_files
    from r1omni.evaluation.loading import load_checkpoint

    clip = write_clip(folder / "clip.mp4", size=(256, 256))
    start = time.perf_counter()
    model, processor = load_checkpoint(folder / "base", device="cpu")
    loaded = time.perf_counter()
    params = PredictParams(batch_size=1, max_new_tokens=NEW_TOKENS)
    (answer,) = answer_files(
        [str(clip)], model, processor, labels=LABELS["dfew"], predict=params, timeout_seconds=60.0
    )
    if not isinstance(answer, Answer):
        raise SystemExit(answer.as_text())
    return {
        "load_seconds": round(loaded - start, 1),
        "answer_seconds": round(time.perf_counter() - loaded, 1),
        "dtype": str(model.dtype),
        "new_tokens": NEW_TOKENS,
        "notes": list(answer.notes),
    }


def peak() -> int:
    """The peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def render(rows: list[dict[str, object]]) -> str:
    """The section as Markdown."""
    written, converted, predicted = rows
    lines = [
        "## The real size on a CPU",
        "",
        f"A random checkpoint of the released 0.5B shapes ({written['parameters']:,} parameters "
        f"with the towers, {written['gib_on_disk']} GiB in bfloat16) in the original layout; "
        f"{processor_name()}, one thread, nice 19 beside other work. `python "
        "benchmarks/full_size.py` wrote this.",
        "",
        "| step | wall s | CPU s | peak GiB | of which imports |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r['step']} | {r['wall_seconds']} | {r['cpu_seconds']} | {r['peak_gib']} | "
        f"{r['peak_gib_after_imports']} |"
        for r in rows
    ]
    lines += [
        "",
        f"Convert checked and used {converted['tensors_used']} tensors. Predict: loading "
        f"{predicted['load_seconds']} s, one clip {predicted['answer_seconds']} s (both towers, "
        f"about 1,000 prompt positions, {predicted['new_tokens']} tokens, seven labels scored; "
        f"{predicted['dtype']}).",
    ]
    return "\n".join(lines) + "\n"


def processor_name() -> str:
    """The processor's name and how many cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
