"""From measured rows to ratios, results.json and RESULTS.md.

    python -m benchmarks.results

rewrites RESULTS.md from results.json and from sections/*.md, which other scripts write.
"""

import json
import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SECTIONS = Path(__file__).parent / "sections"
TARGETS = {
    "textbook_over_fast_cpu": "≥ 5.5",
    "textbook_over_fast_cpu_cached": "≥ 6",
    "textbook_over_fast_peak_memory": "≥ 4",
    "trl_over_fast_cpu": "≥ 5",
    "g16_over_g8_cpu": "≤ 1.75",
    "fraction_of_matmul_rate": "≥ 0.5",
    "fraction_of_large_matmul_rate": "≥ 0.5",
    "predict_batched_over_single": "",
}
MEANING = {
    "textbook_over_fast_cpu": "the textbook's CPU time over ours, both with the towers",
    "textbook_over_fast_cpu_cached": "the same textbook over ours with cached features",
    "textbook_over_fast_peak_memory": "peak memory above the start, both with the towers",
    "trl_over_fast_cpu": "TRL's GRPOTrainer over ours, the language model alone, first steps both",
    "g16_over_g8_cpu": "CPU time with 16 completions a clip over that with 8",
    "fraction_of_matmul_rate": "necessary arithmetic at this machine's matmul rate for its shapes, "
    "over the step's CPU time",
    "fraction_of_large_matmul_rate": "the same, all of it at the rate of products with many rows",
    "predict_batched_over_single": "clips per CPU second, eight together over one at a time",
}


def summarise(rows: list[Row]) -> dict[str, float | None]:
    """The ratios; None if a part was not measured."""
    textbook, fast = cpu(rows, "textbook"), cpu(rows, "fast")
    cached = cpu(rows, "fast, cached features")
    matmul = middle(rows, "matmul", "seconds_at_matmul_rate")
    return {
        "textbook_over_fast_cpu": over(textbook, fast),
        "textbook_over_fast_cpu_cached": over(textbook, cached),
        "textbook_over_fast_peak_memory": over(peak(rows, "textbook"), peak(rows, "fast")),
        "trl_over_fast_cpu": over(cpu(rows, "TRL, text only"), cold_cpu(rows, "fast, text only")),
        "g16_over_g8_cpu": over(cpu(rows, "G = 16"), cpu(rows, "G = 8")),
        "fraction_of_matmul_rate": over(matmul, cached),
        "fraction_of_large_matmul_rate": over(
            middle(rows, "matmul", "seconds_at_large_matmul_rate"), cached
        ),
        "predict_batched_over_single": middle(rows, "predict", "batched_over_single"),
    }


def middle(rows: list[Row], name: str, key: str) -> float | None:
    """The median of `key` over the rows of a name."""
    found = [row[key] for row in rows if row["name"] == name]
    return statistics.median(found) if found else None


def timed(rows: list[Row], name: str) -> list[Row]:
    """The rows whose time counts."""
    return [row for row in rows if row["name"] == name and row.get("warm")]


def cpu(rows: list[Row], name: str) -> float | None:
    """The median of the CPU seconds."""
    found = [row["cpu"] for row in timed(rows, name)]
    return statistics.median(found) if found else None


def cold_cpu(rows: list[Row], name: str) -> float | None:
    """The median of the CPU seconds of first steps, to compare with TRL's."""
    found = [row["cpu"] for row in rows if row["name"] == name and row.get("warm") is False]
    return statistics.median(found) if found else None


def peak(rows: list[Row], name: str) -> float | None:
    """The median of the peak memory of first steps, in MiB above the start.

    Later steps start with memory that earlier ones left with the allocator.
    """
    found = [row["peak_mib"] for row in rows if row["name"] == name and "peak_mib" in row]
    first = [r["peak_mib"] for r in rows if r["name"] == name and r.get("warm") is False]
    return statistics.median(first or found) if found else None


def over(above: float | None, below: float | None) -> float | None:
    """The ratio; None if a side was not measured, or `below` is 0."""
    return above / below if above is not None and below else None


def write_results(
    ratios: dict[str, float | None], rows: list[Row], machine: dict[str, str], path: Path
) -> None:
    """Write results.json and, beside it, RESULTS.md with every section there is."""
    known = {key: None if value is None else round(value, 3) for key, value in ratios.items()}
    _write(path, json.dumps({**known, "machine": machine, "rows": rows}, indent=1) + "\n")
    parts = ["# Speed", *speed_section(ratios, rows, machine)]
    parts += [section.read_text().rstrip() for section in sorted(SECTIONS.glob("*.md"))]
    _write(path.with_name("RESULTS.md"), "\n\n".join(parts) + "\n")


def speed_section(
    ratios: dict[str, float | None], rows: list[Row], machine: dict[str, str]
) -> list[str]:
    """The paragraphs about GRPO's speed."""
    return [
        "`make bench` wrote this from what it measured (raw rows: results.json). "
        + " · ".join(f"{key} {value}" for key, value in machine.items()),
        "Every measurement runs in its own process with one thread. In each round the "
        "implementations and the rows of G alternate; the n steps of a row of P or of a prompt "
        "length are in one process. One step, one clip, 8 completions of 128 tokens, prompt of 999 "
        "positions, no optimizer step, random weights: SigLIP 4 x 256 at 224/16, Whisper encoder "
        "4 x 384 with 1500 positions, Qwen2 6 x 512 (8 query, 2 key heads, ff 2816), vocabulary "
        "16,384. CPU seconds are medians over n steps. Other work on the cores lengthens wall "
        "seconds.",
        *_when(rows),
        _ratio_table(ratios),
        _step_table(rows),
        _parts_table(rows),
        *_same_numbers(rows),
        *_default(rows),
        *_growth_table(rows),
        *_cuda_table(rows),
        *_notes(rows),
    ]


def _when(rows: list[Row]) -> list[str]:
    """When the rows of each commit were measured."""
    times: dict[str, list[str]] = {}
    for row in rows:
        if "at" in row:
            times.setdefault(row["commit"], []).append(row["at"])
    spans = [
        f"{len(at)} rows at commit {commit}, begun between {min(at)} and {max(at)} UTC"
        for commit, at in times.items()
    ]
    return [f"Measured: {'; '.join(spans)}."] if spans else []


def _ratio_table(ratios: dict[str, float | None]) -> str:
    lines = ["| ratio | measured | target | what |", "|---|--:|--:|---|"]
    for key, value in ratios.items():
        shown = "not measured" if value is None else f"{value:.2f}"
        lines.append(f"| `{key}` | {shown} | {TARGETS[key]} | {MEANING[key]} |")
    return "\n".join(lines)


def _step_table(rows: list[Row]) -> str:
    lines = ["| one step | n | CPU s (median) | CPU s (all) | wall s | peak MiB |"]
    lines.append("|---|--:|--:|---|--:|--:|")
    for name in (
        "textbook", "fast", "fast, cached features", "fast, text only", "TRL, text only"
    ):  # fmt: skip
        own = timed(rows, name)
        if not own:
            missing = [r["missing"] for r in rows if r["name"] == name and "missing" in r]
            lines.append(f"| {name} | 0 | {missing[0] if missing else 'not measured'} | | | |")
            continue
        every = ", ".join(f"{row['cpu']:.1f}" for row in own)
        wall = statistics.median(row["wall"] for row in own)
        lines.append(
            f"| {name} | {len(own)} | {cpu(rows, name):.2f} | {every} | {wall:.1f} | "
            f"{peak(rows, name):.0f} |"
        )
    return "\n".join(lines)


def _parts_table(rows: list[Row]) -> str:
    lines = ["| CPU seconds by part | part | s |", "|---|---|--:|"]
    for name in ("textbook", "fast", "fast, cached features"):
        own = timed(rows, name)
        for part in own[0]["cpu_parts"] if own else ():
            seconds = statistics.median(row["cpu_parts"][part] for row in own)
            lines.append(f"| {name} | {part} | {seconds:.2f} |")
    lines.append("")
    lines.append("The textbook's towers run inside its other parts and are counted there, too.")
    return "\n".join(lines)


def _same_numbers(rows: list[Row]) -> list[str]:
    slow, fast = timed(rows, "textbook"), timed(rows, "fast")
    if not slow or not fast:
        return []
    same = [
        f"{what} {slow[0][key]:.9g} and {fast[0][key]:.9g}"
        for what, key in (("loss", "loss"), ("gradient norm", "grad_norm"))
    ]
    return [f"The same step, by the textbook and by the fast path: {', '.join(same)}."]


def _default(rows: list[Row]) -> list[str]:
    slow, fast = (timed(rows, f"default, {way}") for way in ("textbook", "fast"))
    if not slow or not fast:
        return []
    seconds = [cpu(rows, f"default, {way}") or 0.0 for way in ("textbook", "fast")]
    return [
        "The embedded default's own step (params.yaml's model, 32 clips, 8 completions of 32 "
        f"tokens, one process): {seconds[0]:.2f} CPU s by the textbook, {seconds[1]:.2f} by the "
        f"fast path with cached features, {seconds[0] / seconds[1]:.1f} times less (medians of "
        f"{len(slow)} and {len(fast)}); gradient norm {slow[0]['grad_norm']:.7g} and "
        f"{fast[0]['grad_norm']:.7g}."
    ]


def _growth_table(rows: list[Row]) -> list[str]:
    names = [n for n in dict.fromkeys(row["name"] for row in rows) if n[:2] in ("G ", "P ", "pr")]
    names = [name for name in names if timed(rows, name)]
    if not names:
        return []
    lines = ["| growth (cached features) | n | CPU s | peak MiB |", "|---|--:|--:|--:|"]
    for name in names:
        n = len(timed(rows, name))
        lines.append(f"| {name} | {n} | {cpu(rows, name):.2f} | {peak(rows, name):.0f} |")
    lines.append("")
    lines.append(
        "Rows of G: 128 new tokens, prompt 999. Rows of P: 32 new tokens, prompt 500, G = 8. Rows "
        "of prompt: 32 new tokens, G = 8. One at a time: machine.micro_batch_size 1. Decoded "
        "together: also machine.prefix recompute. Checkpointing: machine.gradient_checkpointing."
    )
    return ["\n".join(lines)]


def _cuda_table(rows: list[Row]) -> list[str]:
    """The real size on CUDA by part: one clip, 8 completions of 150 tokens."""
    names = dict.fromkeys(row["name"] for row in rows if row["name"].startswith("CUDA, "))
    if not names:
        return []
    rate = middle(rows, "CUDA", "bf16_matmul_rate")
    lines = [
        "| CUDA, 0.5B, bf16 | part | n | wall s | tokens/s | MFU | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name in names:
        own = timed(rows, name)
        lines += [_cuda_line(name, "step", own, rate, f"{peak(rows, name):.0f}")]
        lines += [_cuda_line(name, part, own, rate, "") for part in own[-1]["wall_parts"]]
    lines.append("")
    lines.append(
        "tokens/s: tokens sampled in the step over the part's seconds. MFU: the fast path's "
        "necessary FLOP (benchmarks/flops.py) of the step or part, over the seconds and this "
        "device's rate of large bfloat16 products."
    )
    return ["\n".join(lines)]


def _cuda_line(name: str, part: str, own: list[Row], rate: float | None, peak: str) -> str:
    wall = statistics.median(
        row["wall"] if part == "step" else row["wall_parts"][part] for row in own
    )
    flop = own[-1]["flop"]
    needed = sum(flop.values()) if part == "step" else flop.get(part)
    used = over(needed, rate * wall if rate else None)
    speed = over(own[-1]["tokens"], wall)
    return (
        f"| {name} | {part} | {len(own)} | {wall:.3f} | "
        f"{'' if speed is None else f'{speed:.0f}'} | {'' if used is None else f'{used:.1%}'} | "
        f"{peak} |"
    )


def _notes(rows: list[Row]) -> list[str]:
    """The notes of measurements; of several of one name, the last."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.get("note"):
            notes.setdefault(row["name"], []).append(row["note"])
    return [
        f"{name}{f' (the last of {len(own)})' if len(own) > 1 else ''}: {own[-1]}"
        for name, own in notes.items()
    ]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def main() -> None:
    """Render results.json and the sections again."""
    path = Path(__file__).with_name("results.json")
    found = json.loads(path.read_text())
    write_results(summarise(found["rows"]), found["rows"], found["machine"], path)


if __name__ == "__main__":
    main()
