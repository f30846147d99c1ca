"""A toy world that is built once, for tests that run whole stages in processes of their own."""

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A checkpoint, a manifest and features of a few clips."""
    import toy

    return toy.build_world(tmp_path_factory.mktemp("world"))
