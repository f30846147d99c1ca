"""A toy world that is built once, for tests that run whole stages in processes of their own."""

import fcntl

import pytest


@pytest.fixture(scope="session")
def world(shared_folder):
    """A checkpoint, a manifest and features of a few clips: tests must not change them."""
    import toy

    root = shared_folder / "world"
    root.mkdir(exist_ok=True)
    built = root / "built"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker builds it, the others wait
        if not built.exists():
            toy.build_world(root)
            built.touch()
    return root
