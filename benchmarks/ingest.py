"""Ingestion at the real size: counts of every fold, rate against bare decoding, peak memory.

    python -m benchmarks.ingest             # real numbers of rows and files, 30,000 clips
    python -m benchmarks.ingest --scale 20  # a twentieth of them

Trees are hard links to a few real mp4s (tests/stand_ins.py). Each path is opened and decoded,
because the journal has a row per path. Writes benchmarks/sections/ingest.md and ingest.json.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import stand_ins  # noqa: E402
from clip_files import write_clip  # noqa: E402
from mutations import slow_video  # noqa: E402

from r1omni.config import IngestParams  # noqa: E402
from r1omni.corpora.clip import read_manifest, read_rejects  # noqa: E402
from r1omni.corpora.ingestion.ingest import run_ingest  # noqa: E402
from r1omni.corpora.known import find_corpus  # noqa: E402
from r1omni.limits import Limits  # noqa: E402
from r1omni.media import decode, probe  # noqa: E402

SECTION = ROOT / "benchmarks/sections/ingest"
FRAMES = 8  # the paper's


def main() -> None:
    """Run every part, and print and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1, help="divides rows and files")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rate-clips", type=int, default=600)
    parser.add_argument("--parts", nargs="+", default=["rate", "memory", "counts"])
    parser.add_argument("--one", nargs=3, metavar=("CORPUS", "ROOT", "FOLD"), help="(internal)")
    options = parser.parse_args()
    if options.one:
        corpus, root, fold = options.one
        say(ingest_here(corpus, Path(root), int(fold), options.workers))
        return
    results = earlier() | {
        "machine": f"{processor()}, {options.workers} workers",
        "scale": options.scale,
    }
    with tempfile.TemporaryDirectory(prefix="r1omni-ingest-") as folder:
        os.chdir(folder)
        base = Path(folder)
        clips = sources(base)
        parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "rate": lambda: rates(base, clips, options.rate_clips, options.workers),
            "memory": lambda: memory(base, clips, options.scale, options.workers),
            "counts": lambda: counts(base, clips, options.scale, options.workers),
        }
        for name in options.parts:
            results[name] = parts[name]()
            write(SECTION.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
            write(SECTION.with_suffix(".md"), render(results))
    say(render(results))


def earlier() -> dict[str, Any]:
    """The results of an earlier run."""
    path = SECTION.with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return {"rate": [], "memory": [], "counts": []} | found


def sources(base: Path) -> dict[str, list[Path]]:
    """Real files: small ones for the trees, and ones like the corpora's for the rate."""
    tiny = [write_clip(base / f"tiny{i}.mp4", seconds=1.5, seed=i) for i in range(4)]
    silent = write_clip(base / "silent.mp4", audio=None)
    real = []
    for i, seconds in enumerate((2.0, 3.0)):
        path = base / f"real{i}.mp4"
        slow_video(path, frames=int(seconds * 25), size=(224, 224), fps=25, seconds=seconds)
        real.append(path)
    short = [write_clip(base / f"short{i}.mp4", seconds=0.25, seed=i) for i in range(4)]
    return {"short": short, "tiny": tiny, "silent": [silent], "real": real}


def tree(root: Path, clips: Sequence[Path], n: int) -> None:
    """A DFEW of one fold with `n` clips."""
    cycled = itertools.cycle(clips)
    for number in range(1, n + 1):
        stand_ins.link(cycled, root / f"clip/{number}.mp4")
    for split, numbers in {"train": range(1, n), "test": (n,)}.items():
        rows = [f"{number},{number % 7 + 1}" for number in numbers]
        stand_ins.write_lines(root / f"label/single_{split}set_1.csv", ["video_name,label", *rows])


def rates(base: Path, clips: dict[str, list[Path]], n: int, workers: int) -> list[dict[str, Any]]:
    """Clips a second of `r1omni ingest` and of bare decoding, of the same files in turn."""
    rows = []
    for kind in ("tiny", "real"):
        root = base / f"rate-{kind}"
        tree(root, clips[kind], n)
        paths = sorted(root.glob("clip/*.mp4"))
        taken: dict[str, list[float]] = {"ingest": [], "decode": [], "probe": []}
        for _ in range(2):
            taken["ingest"].append(ingest("dfew", root, 1, workers)["seconds"])
            taken["decode"].append(bare(decoded, paths, workers))
            taken["probe"].append(bare(probed, paths, workers))
        best = {name: n / min(seconds) for name, seconds in taken.items()}
        rows.append({"clips": kind, "n": n, **best, "share": best["ingest"] / best["decode"]})
        say(json.dumps(rows[-1]))
    return rows


def bare(work: Callable[[Path], object], paths: Sequence[Path], workers: int) -> float:
    """Wall seconds of a warm pool of processes that only does `work`."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(work, paths[: 8 * workers], chunksize=4)
        start = time.monotonic()
        for _ in pool.imap_unordered(work, paths, chunksize=4):
            pass
        return time.monotonic() - start


def decoded(path: Path) -> None:
    """Eight frames and all the sound."""
    decode(path, FRAMES)


def probed(path: Path) -> None:
    """The probe that ingestion makes."""
    probe(path)


def memory(
    base: Path, clips: dict[str, list[Path]], scale: int, workers: int
) -> list[dict[str, Any]]:
    """Peak memory of an ingestion and of its largest worker, by the number of clips."""
    rows = []
    for n in (1000 // scale, 30_000 // scale):
        root = base / f"memory-{n}"
        tree(root, clips["short"], n)
        rows.append({"n": n, **ingest("dfew", root, 1, workers)})
        say(json.dumps(rows[-1]))
    return rows


def counts(
    base: Path, clips: dict[str, list[Path]], scale: int, workers: int
) -> list[dict[str, Any]]:
    """Clips and rejects of every fold of DFEW and MAFW, and of RAVDESS."""
    (silent,) = clips["silent"]
    stand_ins.build_dfew(base / "dfew", clips["short"], scale=scale)
    stand_ins.build_mafw(base / "mafw", clips["short"], silent, scale=scale)
    actors = range(1, 25) if scale == 1 else range(1, 3)
    stand_ins.build_ravdess(base / "ravdess", clips["short"], actors=actors)
    wanted = [*(("dfew", fold) for fold in range(1, 6)), *(("mafw", fold) for fold in range(1, 6)),
              ("mafw_compound", 1), ("ravdess", 1)]  # fmt: skip
    rows = []
    for corpus, fold in wanted:
        root = base / corpus.removesuffix("_compound")
        rows.append({"corpus": corpus, "fold": fold, **ingest(corpus, root, fold, workers)})
        say(json.dumps(rows[-1]))
    return rows


def ingest(corpus: str, root: Path, fold: int, workers: int) -> dict[str, Any]:
    """One ingestion in its own process."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--workers", str(workers)]
    arguments = ["--one", corpus, str(root), str(fold)]
    ran = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def ingest_here(corpus: str, root: Path, fold: int, workers: int) -> str:
    """Ingest; time, memory and counts as JSON. All folds of a tree share one `.state/ingest`."""
    state = Path(f"of-{root.name}")
    state.mkdir(exist_ok=True)
    os.chdir(state)
    if root.name.startswith("rate"):  # every run opens every clip
        Path(".state/ingest/m.sqlite").unlink(missing_ok=True)
    params = IngestParams(
        max_pixels=4096 * 2304,
        missing_audio="reject",
        max_rationale_words=1000,
    )
    start = time.monotonic()
    run_ingest(
        root,
        Path("m.parquet"),
        Path("r.parquet"),
        corpus=find_corpus(corpus),
        fold=fold,
        ingest=params,
        limits=Limits(60.0, 4096 * 2304, 768),
        workers=workers,
    )
    seconds = time.monotonic() - start
    own, worker = (resource.getrusage(who).ru_maxrss / 1024
                   for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
    clips, rejects = read_manifest(Path("m.parquet")), read_rejects(Path("r.parquet"))
    return json.dumps({
        "seconds": seconds, "own_mib": own, "worker_mib": worker,
        **{split: sum(clip.split == split for clip in clips) for split in ("train", "test")},
        "rejects": Counter(reject.reason for reject in rejects),
    })  # fmt: skip


def render(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    lines = [
        "## Ingestion", "",
        f"{results['machine']}; nice, beside other work: only the ratios count. Trees of hard "
        f"links, rows and files divided by {results['scale']}.", "",
        "Clips a second, best of two turns, ingestion with the start of its processes; decoding is "
        f"{FRAMES} frames and all the sound.", "",
        "| clips | n | ingest | bare decoding | bare probing | ingest / decoding |",
        "|---|--:|--:|--:|--:|--:|",
        *(f"| {r['clips']} | {r['n']} | {r['ingest']:.1f} | {r['decode']:.1f} | {r['probe']:.1f} "
          f"| {r['share']:.2f} |" for r in results["rate"]), "",
        "| clips | peak MiB, ingestion | peak MiB, largest worker | seconds |",
        "|--:|--:|--:|--:|",
        *(f"| {r['n']:,} | {r['own_mib']:.0f} | {r['worker_mib']:.0f} | {r['seconds']:.0f} |"
          for r in results["memory"]), "",
        "Folds after the first find every clip in the journal of the first.", "",
        "| corpus | fold | train | test | rejects | seconds |", "|---|--:|--:|--:|---|--:|",
        *(f"| {r['corpus']} | {r['fold']} | {r['train']:,} | {r['test']:,} | "
          f"{', '.join(f'{k} {v:,}' for k, v in r['rejects'].items()) or 'none'} | "
          f"{r['seconds']:.0f} |" for r in results["counts"]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def say(text: str) -> None:
    """Put a line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
