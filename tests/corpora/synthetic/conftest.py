"""Small synthetic corpora, rendered once for all xdist workers."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpora import SIZES, build_synthetic

from r1omni.corpora.synthetic.synthesize import run_synthesize


@pytest.fixture(scope="session")
def rendered(shared_folder: Path) -> Callable[[str], tuple[Path, Path]]:
    """corpus -> (its folder, its truth file); rendered in one process at the first call."""
    home = shared_folder / "synthetic"
    home.mkdir(exist_ok=True)
    synthetic = build_synthetic(SIZES)

    def render(corpus: str) -> tuple[Path, Path]:
        out, truth = home / "raw" / corpus, home / "truth" / f"{corpus}.parquet"
        with (home / f"{corpus}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one xdist worker renders it, the other waits
            if not out.exists():
                run_synthesize(out, truth, corpus=corpus, synthetic=synthetic, workers=1)
        return out, truth

    return render
