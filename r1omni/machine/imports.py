"""Imports of large libraries without Python's garbage collection."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """No garbage is collected in the block, and later collections skip what it has made.

    torch, transformers, DeepSpeed and MLflow make a million objects that stay. Looking for garbage
    among them costs a training 3 s at its start, of 20 s. Afterwards each of DeepSpeed's own calls
    of gc.collect would cost half a second.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
