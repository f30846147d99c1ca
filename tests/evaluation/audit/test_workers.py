"""The audit's workers where the pipeline's fork server has forked the stage: forked with torch."""

import os
import signal
from pathlib import Path

import pytest
import torch  # noqa: F401 — what a stage of the fork server has imported

from r1omni.evaluation.audit import workers
from r1omni.evaluation.audit.workers import Block, Job
from r1omni.machine.fork_client import SOCKET

JOB = Job(Path("data/checkpoints/grpo"), (), 4, 1.0, 1, 3, "cpu")
BLOCKS = [Block((i, 10 + i), ("sad",)) for i in range(6)]


@pytest.fixture(autouse=True)
def in_the_fork_server(monkeypatch):
    monkeypatch.setenv(SOCKET, "/a/socket")
    monkeypatch.setattr(workers, "_load", lambda job: f"model of {job.checkpoint.name}")


def test_blocks_come_in_order_from_processes_with_what_this_one_has_imported(monkeypatch):
    def examined(answerer, subjects, labels, samples):
        return [(answerer, subject, labels, samples, os.getpid()) for subject in subjects]

    monkeypatch.setattr(workers, "examine", examined)
    found = list(workers.examine_blocks(JOB, BLOCKS, 2))
    expected = [[("model of grpo", i + d, ("sad",), 3) for d in (0, 10)] for i in range(6)]
    assert [[row[:-1] for row in block] for block in found] == expected
    assert os.getpid() not in {row[-1] for block in found for row in block}


def test_a_killed_worker_ends_the_audit_with_the_models_name(monkeypatch):
    monkeypatch.setattr(workers, "examine", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ValueError, match="data/checkpoints/grpo: a process of the audit was kill"):
        list(workers.examine_blocks(JOB, BLOCKS, 2))
