"""Rates to compare a step with: the machine's matmul, `predict` in batches, `features`, CUDA.

    python -m benchmarks.rates matmul

One process, one JSON object on stdout.
"""

import argparse
import contextlib
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from benchmarks.flops import necessary_flop
from benchmarks.measuring import Clock, matmul_rate
from benchmarks.one_step import NO_END
from benchmarks.textbook import use_library_layers
from benchmarks.workload import as_backbone, as_batch, build_workload, midsize_config
from r1omni.corpora.clip import Clip, write_manifest
from r1omni.limits import Limits
from r1omni.media import MediaSettings
from r1omni.media.pool import decode_clips
from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.backbone import prefill_asked
from r1omni.model.features import run_features
from r1omni.model.humanomni.processor import train_gate_tokenizer, train_tokenizer
from r1omni.model.sampling import decode

G, T, PROMPT = 8, 128, 999
FORWARD_AND_BACKWARD = 3  # a backward pass takes twice the FLOP of a forward pass
N_CLIPS = 8
LIMITS = Limits(timeout_seconds=60.0, max_pixels=4096 * 2304, memory_mb=768)
FEATURE_TURNS = 5


def matmul() -> dict[str, object]:
    """The CPU seconds that a step's necessary FLOP take at this machine's matmul rate.

    Counted: prompt once in the policy, forward and backward, and once in the reference, of the last
    layer its keys and values alone; completions decoded, then forward and backward in the policy,
    forward in the reference; the head on completion positions; attention between positions that
    see each other; the connector as often as the prompt. Each runs at the rate of plain products of
    its shapes, with uncached weights.
    """
    text = midsize_config().text_config
    width, wide, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    key_width = width * text.num_key_value_heads // text.num_attention_heads
    shapes = [(width, width)] * 2 + [(width, key_width)] * 2 + [(width, wide)] * 2 + [(wide, width)]
    head = [(width, text.vocab_size)]
    per_token = 2 * layers * sum(a * b for a, b in shapes)
    per_position = per_token * (layers - 1) / layers + 2 * 2 * width * key_width  # of a prompt
    per_logits = 2 * width * text.vocab_size
    seen = 4 * width * layers  # FLOP for each pair of positions
    prompts = FORWARD_AND_BACKWARD + 1
    scored = G * (T - 1)  # the last token of a completion is only predicted
    prompt_pairs = PROMPT * (PROMPT + 1) // 2 * (layers - 1) / layers
    own_pairs = scored * PROMPT + G * T * (T - 1) // 2
    workload = build_workload(midsize_config())
    clip = as_batch(workload.policy, workload.clips)
    connector = counted_flop(workload.policy, lambda: as_backbone(workload.policy).embed(clip))
    many, few = matmul_rate(1000, shapes), matmul_rate(G, shapes)
    head_many, head_few = matmul_rate(1000, head), matmul_rate(G, head)
    attention = attention_rate(width // text.num_attention_heads)
    work = {  # FLOP, FLOP per second
        "linear, many rows": (prompts * (per_position * PROMPT + per_token * scored), many),
        "linear, 8 rows (decoding)": (per_token * scored, few),
        "head, many rows": (per_logits * prompts * G * T, head_many),
        "head, 8 rows (decoding)": (per_logits * G * T, head_few),
        "attention": (seen * (prompts * prompt_pairs + (prompts + 1) * own_pairs), attention),
        "connector": (connector * prompts, many),
    }
    seconds = {name: flop / rate for name, (flop, rate) in work.items()}
    total = sum(flop for flop, _ in work.values())
    parts = ", ".join(
        f"{name} {flop / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
        for name, (flop, rate) in work.items()
    )
    return {
        "seconds_at_matmul_rate": sum(seconds.values()),
        "seconds_at_large_matmul_rate": total / many,
        "flop": total,
        "seconds": seconds,
        "note": f"a step's necessary arithmetic is {total / 1e9:.0f} GFLOP, "
        f"{sum(seconds.values()):.2f} s at the rate of plain products of these shapes, "
        "which decoding's own (model/packed_linear.py) outrun "
        f"({total / many:.2f} s if decoding's products were as fast as large ones): {parts}.",
    }


def counted_flop(model: nn.Module, run: Callable[[], object]) -> int:
    """The FLOP of `run`. The model's modules become the libraries' own, whose products count."""
    use_library_layers(model)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        run()
    return counter.get_total_flops()


def attention_rate(head_width: int) -> float:
    """FLOP per CPU second of scores of packed completions against a prompt."""
    rows, keys = torch.randn(2, 508, head_width), torch.randn(2, head_width, PROMPT)
    flop = 2 * 2 * 508 * head_width * PROMPT
    return flop / cpu_seconds(lambda: rows @ keys, 50)


def predict() -> dict[str, object]:
    """Greedy answers of eight clips from cached features, together and one at a time."""
    workload = build_workload(midsize_config(), N_CLIPS)
    clips = workload.cached()

    def answer(size: int) -> None:
        for start in range(0, N_CLIPS, size):
            prompts = as_batch(workload.policy, clips[start : start + size])
            with torch.no_grad():
                prefix = prefill_asked(as_backbone(workload.policy), prompts)
            decode(workload.policy, prefix, group_size=1, max_new_tokens=32, eos_token_id=NO_END)

    single, batched = cpu_seconds(lambda: answer(1), 1), cpu_seconds(lambda: answer(N_CLIPS), 1)
    text = midsize_config().text_config
    necessary = necessary_flop(text, PROMPT, 1, 32)
    prompt = as_batch(workload.policy, clips[:1])
    flop = necessary["prefill"] + necessary["decode"]
    flop += counted_flop(workload.policy, lambda: as_backbone(workload.policy).embed(prompt))
    share = flop / matmul_rate(1000, feed_forward_shapes(text)) / (batched / N_CLIPS)
    return {
        "share_of_matmul_rate": share,
        "batched_over_single": single / batched,
        "single_cpu_a_clip": single / N_CLIPS,
        "batched_cpu_a_clip": batched / N_CLIPS,
        "note": f"{single / N_CLIPS:.2f} CPU s a clip one at a time, {batched / N_CLIPS:.2f} eight "
        f"together (prefill and 32 tokens), {share:.2f} of the machine's matmul rate for "
        f"{flop / 1e9:.0f} GFLOP a clip.",
    }


def features() -> dict[str, object]:
    """Clips a second of the `features` stage itself, and of bare decoding, in turns; one worker."""
    return measure_features(midsize_config(), 4 * N_CLIPS, FEATURE_TURNS)


def measure_features(config: HumanOmniConfig, n_clips: int, turns: int) -> dict[str, object]:
    """The stage from manifest to shards against decoding the same files, in wall time.

    The stage's time includes loading the checkpoint and hashing its towers, which happens once per
    corpus. The stage on one clip measures that part.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from clip_files import write_clip

    settings = MediaSettings(
        num_frames=config.num_frames,
        image_size=config.vision_config.image_size,
        aspect_ratio="pad",
        sampling_rate=16000,
        n_samples=320 * config.audio_config.max_source_positions,
        n_fft=400,
        hop_length=160,
        num_mel_bins=config.audio_config.num_mel_bins,
    )
    times: dict[str, list[float]] = {"stage": [], "one clip": [], "decoding": []}
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        root = Path(name)
        paths = [
            write_clip(root / f"{i}.mp4", seconds=3.0, size=(224, 224), seed=i)
            for i in range(n_clips)
        ]
        policy = build_workload(config).policy
        policy.save_pretrained(root / "checkpoint")
        flop = towers_flop(policy, settings)
        tokenizers = train_tokenizer(["happy"], 300), train_gate_tokenizer(["happy"])
        HumanOmniProcessor(*tokenizers, settings).save_pretrained(root / "checkpoint")
        write_manifest(map(made_up_clip, paths), root / "all.parquet")
        write_manifest([made_up_clip(paths[0])], root / "one.parquet")
        for turn in range(turns):  # each with a new, empty `out`
            ways: dict[str, Callable[[], object]] = {
                "stage": partial(_run_features, root, "all", f"all-{turn}"),
                "one clip": partial(_run_features, root, "one", f"one-{turn}"),
                "decoding": lambda: list(decode_clips(paths, settings, 1, LIMITS)),
            }
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                times[way].append(time.perf_counter() - began)
    stage, one, bare = (statistics.median(found) for found in times.values())
    rate = matmul_rate(1000, feed_forward_shapes(config.vision_config))
    share = flop * n_clips / rate / stage
    steady = flop * (n_clips - 1) / rate / max(stage - one, 1e-9)
    return {
        "share_of_matmul_rate": share,
        "stage_clips_per_second": n_clips / stage,
        "stage_seconds_with_one_clip": one,
        "decoding_clips_per_second": n_clips / bare,
        "stage_over_decoding": bare / stage,
        "note": f"the stage {n_clips / stage:.2f} clips/s with one decoding worker and one thread, "
        f"bare decoding {n_clips / bare:.2f} ({bare / stage:.2f} of its pace; {n_clips} clips of "
        f"3 s, 224 x 224, noise; wall seconds, medians of {turns}). {one:.1f} s of the stage's "
        f"{stage:.1f} s go by with a single clip too: loading, hashing, starting a worker. "
        f"The towers' {flop / 1e9:.0f} GFLOP a clip run at {share:.2f} of the machine's matmul "
        f"rate, at {steady:.2f} after the first clip.",
    }


def towers_flop(policy: HumanOmniForConditionalGeneration, settings: MediaSettings) -> int:
    """The FLOP of both towers for one clip."""
    side, frames = settings.image_size, settings.num_frames
    pixels = torch.rand(1, frames, 3, side, side)
    mel = torch.rand(1, settings.num_mel_bins, settings.n_samples // settings.hop_length)
    return counted_flop(policy, lambda: (policy.encode_vision(pixels), policy.encode_audio(mel)))


def feed_forward_shapes(config: PretrainedConfig) -> list[tuple[int, int]]:
    """Of a layer's feed-forward: most of a model's products have these."""
    narrow, wide = config.hidden_size, config.intermediate_size
    return [(narrow, wide), (wide, narrow)]


def _run_features(root: Path, manifest: str, out: str) -> None:
    inputs = root / f"{manifest}.parquet", root, root / "checkpoint", root / out
    how = {"batch_size": N_CLIPS, "workers": 1, "min_free_gb": 0.0}
    run_features(*inputs, **how, limits=LIMITS, device="cpu")


def made_up_clip(path: Path) -> Clip:
    """A manifest's row of a made-up file."""
    return Clip(
        clip_id=path.stem,
        corpus="dfew",
        path=path.name,
        label="happy",
        split="train",
        fold=1,
        subject=None,
        rationale=None,
        duration=3.0,
        fps=8.0,
        n_frames=24,
        has_audio=True,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def cuda() -> dict[str, object]:
    """The CUDA device's bfloat16 matmul rate, the base of utilisation; a note without a device."""
    if not torch.cuda.is_available():
        return {"missing": "no CUDA device", "note": "no CUDA device here: not measured."}
    rate = square_rate(torch.device("cuda"), side=8192, repeats=20)
    # FLOP of a clip's step with cached features: prompt 950, 8 completions of 150 tokens. Counted
    # from shapes; `necessary_flop` (flops.py) gives 9.18e12, without the connector.
    step = 9.44e12
    return {
        "bf16_matmul_rate": rate,
        "note": f"bf16 products of 8192 x 8192 run at {rate / 1e12:.0f} TFLOP/s, at which a clip's "
        f"step of 9.44 TFLOP (cached features) would take {step / rate * 1e3:.0f} ms.",
    }


def square_rate(
    device: torch.device, side: int, repeats: int, dtype: torch.dtype = torch.bfloat16
) -> float:
    """FLOP per wall second of products of square matrices on a device, warm."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    clock = Clock()
    a @ b
    with clock.part("products"):
        for _ in range(repeats):
            a @ b
    return 2 * side**3 * repeats / clock.wall["products"]


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """The CPU seconds of one run, warm, the mean over some."""
    run()
    began = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - began) / repeats


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rates = {"matmul": matmul, "predict": predict, "features": features, "cuda": cuda}
    parser.add_argument("rate", choices=list(rates))
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(rates[parser.parse_args().rate]()) + "\n")


if __name__ == "__main__":
    main()
