"""The real 0.5B size on this machine's CPU: convert a checkpoint, answer a clip, learn by GRPO.

    python benchmarks/full_size.py

Random weights of the released shapes (params/paper.yaml), bfloat16, written in the original layout
to a temporary folder. GRPO is the profile's stage and engine (ZeRO, bfloat16) with few clips and
short completions: two steps with a state after the first, then the second again from that state.
Every step runs in its own process, so peak memory is measured per step.
Writes benchmarks/sections/full_size.md and .json.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECTION = ROOT / "benchmarks/sections/full_size"
STEPS = ("write", "convert", "predict", "grpo", "resume")
NEW_TOKENS = 32
TRAINED_CLIPS, TRAINED_GROUP, TRAINED_TOKENS = 2, 2, 16
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
    """The result of `measure` in its own process."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True
    )
    numbers: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{numbers}\n")
    return numbers


def measure(step: str, folder: Path) -> dict[str, object]:
    """The step's results, its wall and CPU seconds (without imports) and its peak memory."""
    import torch

    import r1omni.base_model.stage  # noqa: F401  every step imports it

    torch.set_num_threads(1)
    imported = peak()
    wall, cpu = time.perf_counter(), time.process_time()
    steps = {"write": write, "convert": convert, "predict": predict, "grpo": grpo, "resume": resume}
    did = steps[step](folder)
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
    from benchmarks.random_model import random_config
    from r1omni.model import HumanOmniForConditionalGeneration
    from r1omni.params_file import read_params

    config, processor = random_config(read_params(ROOT / "params/paper.yaml"))
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
    from r1omni.base_model.stage import run_base
    from r1omni.machine.state_folders import TrainingPaths
    from r1omni.params_file import read_params

    params = read_params(ROOT / "params/paper.yaml")
    run_base(
        folder / "original",
        [],
        TrainingPaths(folder / "base", folder / "training", folder / ".state"),
        base=params.base,
        model=params.model,
        media=params.media,
        engine=params.engine,
        machine=params.machine.model_copy(update={"device": "cpu"}),
        limits=params.limits,
        log=lambda _step, _metrics: None,
    )
    account = json.loads((folder / "training/conversion.json").read_text())
    return {"tensors_used": len(account["used"])}


def predict(folder: Path) -> dict[str, object]:
    """One clip of a second, 256 x 256 with sound, answered in NEW_TOKENS tokens, labels scored."""
    sys.path.insert(0, str(ROOT / "tests"))
    from clip_files import write_clip

    from r1omni.corpora.known import find_corpus
    from r1omni.inference.answer import Answer, answer_files
    from r1omni.inference.loading import load_checkpoint
    from r1omni.params_file import read_params

    clip = write_clip(folder / "clip.mp4", size=(256, 256))
    start = time.perf_counter()
    model, processor = load_checkpoint(folder / "base", device="cpu")
    loaded = time.perf_counter()
    (answer,) = answer_files(
        [str(clip)],
        model,
        processor,
        labels=find_corpus("dfew").labels or (),
        batch_size=1,
        max_new_tokens=NEW_TOKENS,
        limits=read_params(ROOT / "params.yaml").limits,
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


def grpo(folder: Path) -> dict[str, object]:
    """Two steps of the stage `grpo` from the converted checkpoint, on features of noise."""
    write_clips(folder)
    rows = train(folder)
    (state,) = (folder / ".state/grpo").glob("*/step-000001")
    size = sum(file.stat().st_size for file in state.rglob("*") if file.is_file())
    return {"seconds_a_step": [round(row["time/step"], 1) for row in rows],
            "state_gib": round(size / GIB, 2), "sha256": weights_hash(folder),
            "logprob_gap": [row["rollout/logprob_gap"] for row in rows],
            "grad_norm": [row["optim/grad_norm"] for row in rows]}  # fmt: skip


def resume(folder: Path) -> dict[str, object]:
    """The second step again, as after a kill; its weights must be the same bytes."""
    shutil.rmtree(folder / "grpo")
    (state,) = (folder / ".state/grpo").glob("*/step-000001")
    kept = state / "kept"
    kept.touch()  # a new state would not have it
    train(folder)
    return {"from_the_state": kept.exists(), "sha256": weights_hash(folder)}


def write_clips(folder: Path) -> None:
    """A manifest of a few clips and random features in the shapes of the real towers."""
    import pandas as pd
    import torch

    from benchmarks.rates import made_up_clip
    from r1omni.corpora.clip import write_manifest
    from r1omni.model import HumanOmniConfig
    from r1omni.model.checksums import write_sums
    from r1omni.model.feature_store import INDEX, join_rows, write_shard

    config = HumanOmniConfig.from_pretrained(folder / "base")
    n, names = TRAINED_CLIPS, [f"clip-{i}" for i in range(TRAINED_CLIPS)]
    vision = torch.randn(
        n, config.num_frames, config.patch_grid**2, config.vision_config.hidden_size
    )
    audio = torch.randn(n, config.audio_tokens, config.audio_config.d_model)
    rows = [{"vision": v, "audio": a} for v, a in zip(vision.half(), audio.half(), strict=True)]
    (folder / "features").mkdir()
    checksum = write_shard(join_rows(names, rows), folder / "features/0.safetensors")
    table = {"clip_id": names, "key": names, "shard": "0.safetensors", "row": range(n),
             "has_audio": True, "towers": "noise", "sha256": checksum}  # fmt: skip
    pd.DataFrame(table).to_parquet(folder / "features" / INDEX)
    write_sums(folder / "features")
    files = [folder / f"{name}.mp4" for name in names]
    for file in files:
        file.touch()  # never opened, because its features exist
    write_manifest([made_up_clip(file) for file in files], folder / "clips.parquet")


def train(folder: Path) -> list[dict[str, float]]:
    """The stage's curves, with the seconds."""
    from r1omni.machine.curves import read_curves
    from r1omni.machine.state_folders import TrainingPaths
    from r1omni.params_file import read_params
    from r1omni.training import grpo as stage
    from r1omni.training import rolling_out
    from r1omni.training.checkpoints import CURVES, TIMES
    from r1omni.training_config import HeldOutParams

    params = read_params(ROOT / "params/paper.yaml")
    small = {"steps": 2, "clips_per_step": TRAINED_CLIPS, "group_size": TRAINED_GROUP,
             "max_new_tokens": TRAINED_TOKENS}  # fmt: skip
    paths = TrainingPaths(folder / "grpo", folder / "training-grpo", folder / ".state/grpo")
    rolling_out.score_groups = by_place
    stage.run_grpo(
        folder / "base",
        [folder / "clips.parquet"],
        [folder / "features"],
        folder / "evidence",
        paths,
        grpo=params.grpo.model_copy(update=small),
        held_out=HeldOutParams(clips=0, seed=1, every=1),
        engine=params.engine,
        machine=params.machine.model_copy(update={"device": "cpu", "save_every": 1}),
        log=lambda _step, _metrics: None,
    )
    curves = read_curves(paths.training / CURVES), read_curves(paths.state / TIMES)
    return [{**row, **seconds} for row, seconds in zip(*curves, strict=True)]


def by_place(groups: Any, _labels: object, _weights: object) -> list[list[Any]]:
    """Made-up rewards, because a random model earns none: a completion's index in its group."""
    from r1omni.rewards import Score

    return [
        [Score(float(place), {"accuracy": float(place), "format": 0.0}) for place in range(len(g))]
        for g in groups.texts
    ]


def weights_hash(folder: Path) -> str:
    """The first digits of the trained checkpoint's hash."""
    with (folder / "grpo/model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def peak() -> int:
    """The peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def render(rows: list[dict[str, object]]) -> str:
    """The section as Markdown."""
    written, converted, predicted, trained, resumed = rows
    lines = [
        "## The real size on a CPU",
        "",
        f"A random checkpoint of the released 0.5B shapes ({written['parameters']:,} parameters "
        f"with the towers, {written['gib_on_disk']} GiB in bfloat16) in the original layout; "
        f"{processor_name()}, one thread. `python "
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
        "",
        f"GRPO: the profile's engine, 2 steps of {TRAINED_CLIPS} clips x {TRAINED_GROUP} "
        f"completions x {TRAINED_TOKENS} tokens with made-up rewards, "
        f"{' and '.join(map(str, trained['seconds_a_step']))} s; a training state takes "
        f"{trained['state_gib']} GiB. Log probabilities at learning are "
        f"{max(trained['logprob_gap']):.1g} nats a token from those at sampling, gradient norms "
        f"{' and '.join(f'{norm:.2f}' for norm in trained['grad_norm'])}. Resume: the second step "
        "again "
        f"{'from the state' if resumed['from_the_state'] else 'WITHOUT the state'}, weights "
        f"{resumed['sha256']} after it, {trained['sha256']} without the break.",
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
