"""Clip files decoded in many processes, delivered in order.

The processes import only media.py and torchaudio, not transformers, and die with their parent.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from r1omni.media import MediaSettings, TowerInputs, preprocess

_AHEAD = 32  # clips decoded ahead of the towers, per process: what bounds the memory


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def decode_clips(
    paths: Sequence[Path], settings: MediaSettings, workers: int
) -> Iterator[TowerInputs]:
    """The towers' inputs of each file, in order, from `workers` processes (0: one per core).

    Raises UnreadableMedia, naming the file, where one does not decode, and RuntimeError, naming
    candidates, where a process died over one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["r1omni.media", "torchaudio.transforms"])
    n_workers = min(workers or usable_cores(), len(paths))
    pending: deque[tuple[Path, Future[TowerInputs]]] = deque()
    with ProcessPoolExecutor(n_workers, context, initializer=_start_worker) as pool:
        try:
            for path in paths:
                pending.append((path, pool.submit(preprocess, path, settings)))
                if len(pending) > n_workers * _AHEAD:
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        except BrokenProcessPool as error:
            names = ", ".join(str(path) for path, _ in list(pending)[:n_workers])
            raise RuntimeError(f"a decoding process died at or just before: {names}") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """One thread for torch, and an end as soon as the parent is gone, be it by SIGKILL."""
    import torch

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
