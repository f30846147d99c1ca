"""Rates beside the step: the machine's own matmul, `predict` in batches, features from files, CUDA.

    python -m benchmarks.rates matmul

One process, one JSON object on stdout.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import matmul_rate
from benchmarks.one_step import NO_END
from benchmarks.workload import as_batch, build_workload, midsize_config
from r1omni.decoding import decode_clips
from r1omni.media import MediaSettings
from r1omni.model.prompting import prefill_batch
from r1omni.model.sampling import decode
from r1omni.model.tower_inputs import stack_inputs

G, T, PROMPT = 8, 128, 999
FORWARD_AND_BACKWARD = 3  # a backward pass is two forward passes' arithmetic
N_CLIPS = 8


def matmul() -> dict[str, object]:
    """The CPU seconds that a step's necessary arithmetic takes at this machine's matmul rate.

    Counted: prompt once in the policy, forward and backward, and once in the reference; completions
    decoded, then forward and backward in the policy, forward in the reference; the head on
    completion positions; attention between positions that see each other; the connector as often
    as the prompt. Each at the rate of plain products of its own shapes, the weights not in caches.
    """
    text = midsize_config().text_config
    width, wide, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    key_width = width * text.num_key_value_heads // text.num_attention_heads
    shapes = [(width, width)] * 2 + [(width, key_width)] * 2 + [(width, wide)] * 2 + [(wide, width)]
    head = [(width, text.vocab_size)]
    per_token = 2 * layers * sum(a * b for a, b in shapes)
    per_logits = 2 * width * text.vocab_size
    seen = 4 * width * layers  # FLOP for each pair of positions
    prompts = FORWARD_AND_BACKWARD + 1
    scored = G * (T - 1)  # the last token of a completion is only predicted
    prompt_pairs = PROMPT * (PROMPT + 1) // 2
    own_pairs = scored * PROMPT + G * T * (T - 1) // 2
    workload = build_workload(midsize_config())
    clip = as_batch(workload.policy, workload.clips)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        workload.policy.embed_prompt(
            clip.input_ids,
            vision_features=clip.vision_features,
            audio_features=clip.audio_features,
            gate_input_ids=clip.gate_input_ids,
        )
    many, few = matmul_rate(1000, shapes), matmul_rate(G, shapes)
    head_many, head_few = matmul_rate(1000, head), matmul_rate(G, head)
    attention = attention_rate(width // text.num_attention_heads)
    work = {  # FLOP, FLOP per second
        "linear, many rows": (per_token * (prompts * PROMPT + prompts * scored), many),
        "linear, 8 rows (decoding)": (per_token * scored, few),
        "head, many rows": (per_logits * prompts * G * T, head_many),
        "head, 8 rows (decoding)": (per_logits * G * T, head_few),
        "attention": (seen * (prompts * prompt_pairs + (prompts + 1) * own_pairs), attention),
        "connector": (counter.get_total_flops() * prompts, many),
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
        f"{sum(seconds.values()):.2f} s at the rate of plain products of these shapes "
        f"({total / many:.2f} s if decoding's products were as fast as large ones): {parts}. "
        "What eats the rest: elementwise work (norms, SiLU, rotary, softmax), making scores again "
        "in the backward pass, memory traffic, and Python between decoding's small products.",
    }


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
                prefix = prefill_batch(workload.policy, prompts)
            decode(workload.policy, prefix, group_size=1, max_new_tokens=32, eos_token_id=NO_END)

    single, batched = cpu_seconds(lambda: answer(1), 1), cpu_seconds(lambda: answer(N_CLIPS), 1)
    return {
        "batched_over_single": single / batched,
        "single_cpu_a_clip": single / N_CLIPS,
        "batched_cpu_a_clip": batched / N_CLIPS,
        "note": f"{single / N_CLIPS:.2f} CPU s a clip one at a time, {batched / N_CLIPS:.2f} eight "
        "together (prefill and 32 tokens).",
    }


def features() -> dict[str, object]:
    """Clips a second from files to tower outputs, and of decoding alone, in one process each."""
    config = midsize_config()
    model = build_workload(config).policy
    settings = MediaSettings(
        num_frames=config.num_frames,
        image_size=224,
        aspect_ratio="pad",
        sampling_rate=16000,
        n_samples=480000,
        n_fft=400,
        hop_length=160,
        num_mel_bins=80,
    )
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from clip_files import write_clip

    with tempfile.TemporaryDirectory() as name:
        paths = [
            write_clip(Path(name) / f"{i}.mp4", seconds=3.0, size=(224, 224), seed=i)
            for i in range(4 * N_CLIPS)
        ]
        list(decode_clips(paths[:2], settings, 1))
        began = time.perf_counter()
        decoded = list(decode_clips(paths, settings, 1))
        bare = time.perf_counter() - began
        began = time.perf_counter()
        with torch.no_grad():
            for start in range(0, len(decoded), N_CLIPS):
                pixels, mels = stack_inputs(decoded[start : start + N_CLIPS])
                model.encode_vision(pixels)
                model.encode_audio(mels)
        towers = time.perf_counter() - began
    n = len(paths)
    return {
        "decoding_clips_per_second": n / bare,
        "towers_clips_per_second": n / towers,
        "note": f"decoding alone {n / bare:.1f} clips/s in one process (224 x 224, 3 s, noise), "
        f"the towers alone {n / towers:.1f} clips/s on one thread; the stage runs both at the same "
        "time, so it goes at the pace of the slower one (wall seconds).",
    }


def cuda() -> dict[str, object]:
    """Where there is a CUDA device: its bfloat16 matmul rate, which utilisation is counted by."""
    if not torch.cuda.is_available():
        return {"missing": "no CUDA device", "note": "no CUDA device here: not measured."}
    side, repeats = 8192, 20
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    rate = 2 * side**3 * repeats / (time.perf_counter() - began)
    step = 9.56e12  # FLOP of a clip's step with cached features (facts/performance.md)
    return {
        "bf16_matmul_rate": rate,
        "note": f"bf16 products of 8192 x 8192 run at {rate / 1e12:.0f} TFLOP/s, at which a clip's "
        f"step of 9.56 TFLOP (cached features) would take {step / rate * 1e3:.0f} ms.",
    }


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """The CPU seconds of one run, warm, the mean over some."""
    run()
    began = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - began) / repeats


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rates = {"matmul": matmul, "predict": predict, "features": features, "cuda": cuda}
    parser.add_argument("rate", choices=list(rates))
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(rates[parser.parse_args().rate]()) + "\n")


if __name__ == "__main__":
    main()
