"""Fixtures shared by all tests: where things are, and a tiny random model."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def params():
    """params.yaml as it is committed."""
    from r1omni.config import read_params

    return read_params(REPO / "params.yaml")


@pytest.fixture(scope="session")
def tiny(params):
    """A random HumanOmni of the default's size with its processor; tests must not change it."""
    import torch

    from r1omni.training.base import build_untrained

    torch.manual_seed(0)
    captions = ["The brows are raised, the mouth smiling; the voice is loud."]
    return build_untrained(captions, captions, model=params.model, media=params.media)


def pytest_collection_modifyitems(items):
    """The whole pipeline takes longest: one worker begins with it, the other does the rest."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")
