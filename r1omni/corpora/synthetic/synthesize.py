"""The `synthesize` stage: a synthetic corpus as real files in the real corpus's layout."""

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import pandas as pd
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from r1omni.config import SyntheticParams
from r1omni.corpora.origin import write_mark
from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.corpora.synthetic.plans import Planned, plan
from r1omni.corpora.synthetic.render import Renderer
from r1omni.corpora.synthetic.sheet import write_sheet
from r1omni.corpora.synthetic.writers import write_annotations

_CHUNK = 16  # clips handed to a worker at a time


def run_synthesize(
    out: Path, truth: Path, *, corpus: str, synthetic: SyntheticParams, workers: int = 0
) -> None:
    """Write the corpus to `out`, its side file to `truth` and a contact sheet beside that.

    Works in a hidden folder beside `out`, named after everything that decides the bytes. A rerun
    after a kill goes on there, and `out` appears in one piece when all is done.
    """
    planned = plan(corpus, synthetic)
    work = out.parent / f".{out.name}.partial"
    mine = work / _fingerprint(corpus, synthetic)
    root, scratch = mine / "root", mine / "scratch"
    for folder in {root / Path(p.path).parent for p in planned} | {scratch}:
        folder.mkdir(parents=True, exist_ok=True)
    renderer = Renderer(corpus, synthetic.seed, synthetic.render, root, scratch)
    _render_all(renderer, planned, workers or os.cpu_count() or 1)
    write_annotations(corpus, planned, root, synthetic.seed)
    params = synthetic.model_dump(mode="json", include={"seed", "render"})
    own = synthetic.model_dump(mode="json")["corpora"][corpus]
    write_mark(root, {"corpus": corpus, **params, **own})
    columns = synthetic.render.sheet_columns
    write_sheet(planned, root, truth.with_suffix(".png"), columns=columns)
    _write_truth(planned, truth)
    if out.exists():
        out.replace(mine / "old")
    root.replace(out)
    shutil.rmtree(work)


def _render_all(renderer: Renderer, planned: Sequence[Planned], workers: int) -> None:
    """Render every clip that is not there yet, in this process or in `workers` others."""
    missing = [p for p in planned if not (renderer.root / p.path).exists()]
    bar = Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(f"render {renderer.corpus}", total=len(planned))
        bar.advance(task, len(planned) - len(missing))
        for _ in _each(renderer, missing, min(workers, -(-len(missing) // _CHUNK))):
            bar.advance(task)


def _each(
    renderer: Callable[[Planned], str], missing: Sequence[Planned], workers: int
) -> Iterator[str]:
    if workers <= 1:
        yield from map(renderer, missing)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_die_with_parent) as pool:
        yield from pool.map(renderer, missing, chunksize=_CHUNK)


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _fingerprint(corpus: str, synthetic: SyntheticParams) -> str:
    """A name for what decides the bytes: params, this package's source, the encoders."""
    own = synthetic.model_dump(include={"seed": True, "render": True, "corpora": {corpus}})
    params = [corpus, own, av.__version__]
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _write_truth(planned: Sequence[Planned], truth: Path) -> None:
    """One row per clip that an adapter keeps; only evaluation may read it."""
    rows = [
        {
            "clip_id": p.clip_id,
            "emotion": p.latent.emotion,
            "label": p.label,
            "scene": p.visible_scene,
            "speaker": p.latent.speaker,
            **{name: p.latent.levels[name] for name in ATTRIBUTES},
        }
        for p in planned
        if p.clip_id
    ]
    truth.parent.mkdir(parents=True, exist_ok=True)
    partial = truth.with_name(f".{truth.name}.{os.getpid()}")
    pd.DataFrame(rows).sort_values("clip_id").to_parquet(partial, index=False)
    partial.replace(truth)
