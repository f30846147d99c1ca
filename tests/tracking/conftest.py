"""Real SQLite stores in temporary folders, copied from the empty one of tests/conftest.py."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_up_model import write_model

from r1omni.config import TrackingParams


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's root with a store in it; the current directory."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def tracking() -> TrackingParams:
    return TrackingParams(
        uri="sqlite:///mlflow.db",
        artifacts=None,
        experiment="r1omni",
        system_metrics=False,
        registered_model="r1-omni",
    )


@pytest.fixture
def manifest(project: Path) -> Path:
    path = project / "data" / "manifests" / "dfew.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"clip_id": ["dfew/1", "dfew/2", "dfew/3"]}).to_parquet(path)
    return path


@pytest.fixture
def trained(project: Path) -> Callable[..., dict[str, Any]]:
    """The outputs of the stages before `register` for one model."""
    return partial(write_model, project)
