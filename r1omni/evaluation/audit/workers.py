"""Blocks of clips examined by several processes, each with the model in memory."""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from r1omni.evaluation.audit.answerer import Answerer
from r1omni.evaluation.audit.examine import Examined, Subject, examine
from r1omni.machine.device import Device
from r1omni.machine.fork_client import SOCKET
from r1omni.machine.lifeline import die_with_parent

_MODULE = "r1omni.evaluation.audit.backbone_answerer"


@dataclass(frozen=True)
class Job:
    """The model to examine, and where its clips' features lie."""

    checkpoint: Path
    features: tuple[Path, ...]
    max_new_tokens: int
    temperature: float
    seed: int
    samples: int  # completions of each clip
    device: Device


@dataclass(frozen=True)
class Block:
    """Some clips of one corpus, which are examined together, and the corpus's labels."""

    subjects: tuple[Subject, ...]
    labels: tuple[str, ...]


def examine_blocks(job: Job, blocks: Sequence[Block], processes: int) -> Iterator[list[Examined]]:
    """The blocks' clips, in order. A block's numbers do not depend on the number of processes.

    Several processes start at the call, before a progress bar's thread: they may be forked. The
    iterator raises ValueError if one of them is killed.
    """
    n = min(processes, len(blocks))
    if n <= 1:
        return _examined_here(job, blocks)
    context = _context()
    numbers: Any = context.Queue()
    for number in range(n):
        numbers.put(number)
    pool = ProcessPoolExecutor(n, context, _start_worker, (job, numbers))
    return _collected(pool, pool.map(_examine_in_worker, blocks), job)


def _examined_here(job: Job, blocks: Sequence[Block]) -> Iterator[list[Examined]]:
    answerer = _load(job)
    for block in blocks:
        yield examine(answerer, block.subjects, block.labels, job.samples)


def _collected(
    pool: ProcessPoolExecutor, found: Iterator[list[Examined]], job: Job
) -> Iterator[list[Examined]]:
    try:
        with pool:
            yield from found
    except BrokenProcessPool as error:
        raise ValueError(
            f"{job.checkpoint}: a process of the audit was killed (out of memory?); fewer "
            "machine.processes or a smaller machine.predict_batch_size need less memory"
        ) from error


def _context() -> BaseContext:
    """How workers start: forked from this process if the pipeline's fork server has forked it, and
    torch with it; else from a process that imports torch once for all of them."""
    if SOCKET in os.environ and "torch" in sys.modules:
        return get_context("fork")
    context = get_context("forkserver")
    context.set_forkserver_preload([_MODULE])
    return context


def _load(job: Job) -> Answerer:
    from r1omni.evaluation.audit.backbone_answerer import load_answerer

    return load_answerer(
        job.checkpoint,
        job.features,
        max_new_tokens=job.max_new_tokens,
        temperature=job.temperature,
        seed=job.seed,
        device=job.device,
    )


_worker: tuple[Answerer, int] | None = None  # this worker's model, and how often it samples


def _start_worker(job: Job, numbers: Any) -> None:
    global _worker
    die_with_parent()
    os.environ["LOCAL_RANK"] = str(numbers.get())  # its GPU, where there are several
    _worker = _load(job), job.samples


def _examine_in_worker(block: Block) -> list[Examined]:
    assert _worker is not None
    answerer, samples = _worker
    return examine(answerer, block.subjects, block.labels, samples)
