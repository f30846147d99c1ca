"""Small synthetic corpora, rendered once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpora import SIZES, build_synthetic

from r1omni.corpora.synthetic.synthesize import run_synthesize


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """corpus -> (its folder, its truth file); rendered at the first call."""
    home = tmp_path_factory.mktemp("synthetic")
    synthetic = build_synthetic(SIZES)

    def render(corpus: str) -> tuple[Path, Path]:
        out, truth = home / "raw" / corpus, home / "truth" / f"{corpus}.parquet"
        if not out.exists():
            run_synthesize(out, truth, corpus=corpus, synthetic=synthetic)
        return out, truth

    return render
