"""Fixtures shared by all tests: where things are, and a tiny random model."""

import gc
import os
import sys
from pathlib import Path

import pytest

from r1omni.machine.environment import numpy_as_everywhere

numpy_as_everywhere()  # as every stage does: what tests compute has the bytes of the stages
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test may write to the user's own store

REPO = Path(__file__).resolve().parents[1]
gc.set_threshold(50_000, 20, 20)
gc.disable()  # until all is imported, which makes a million objects that stay


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection():
    """What earlier files imported is not looked at again: DeepSpeed collects garbage often."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def params():
    """params.yaml as it is committed."""
    from r1omni.params_file import read_params

    return read_params(REPO / "params.yaml")


@pytest.fixture(scope="session")
def tiny(params):
    """A random HumanOmni backbone of the default's size; tests must not change it."""
    import torch

    from r1omni.base_model.humanomni import build_untrained

    torch.manual_seed(0)
    captions = ["The brows are raised, the mouth smiling; the voice is loud."]
    return build_untrained(captions, captions, model=params.model, media=params.media)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once for all xdist workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has a folder of its own in it
    return folder


@pytest.fixture(scope="session")
def empty_store(shared_folder: Path) -> Path:
    """A complete MLflow database without runs, to copy."""
    from r1omni.tracking.store import ensure_store

    path = shared_folder / "empty-store" / "mlflow.db"
    ensure_store(f"sqlite:///{path}")  # one process at a time makes it, the others wait
    return path


LONGEST = (  # minutes: begun first, or one worker would be left with them
    "test_pipeline.py",
    "test_types.py",
    "test_grpo_pipeline.py",
    "test_survival.py",
    "test_engine_ranks.py",
    "test_engine_launch.py",
    "test_several_machines.py",
    "test_make_prefect.py",
    "test_serve.py",
    "test_knobs.py",
    "test_lab_stores.py",
    "test_hub.py",
    "test_features.py",
    "test_pretended_gpu.py",
    "test_registry.py",
    "test_micro_batches.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first, so that all workers end at about the same time."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()
    # A worker's files need many decoding processes. Those of forking.py have another server.
    if hasattr(session.config, "workerinput") and "forking" in sys.modules:
        from r1omni.media.pool import PRELOAD, start_forkserver

        start_forkserver((*PRELOAD, "r1omni.inference.hearing"))  # else each imports it: 0.7 CPU s


def pytest_sessionfinish():
    """At their end pytest and Python look for garbage; nothing is looked at."""
    gc.freeze()
