"""The made-up run, written once for all tests of the evaluation."""

import pytest
from made_up_run import Run, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Predictions of four models, side files, curves, rollouts and a sheet, on disk."""
    return write_run(tmp_path_factory.mktemp("run"))
