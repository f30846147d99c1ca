"""One stage command in N processes on this machine, started by torch's own launcher.

Every rank runs the same command, with RANK and WORLD_SIZE in its environment. Their rendezvous is
a file. A process that already has RANK was started by another launcher (torchrun, srun,
DeepSpeed's), on one machine or several; it starts no others. Imports torch late.
"""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1omni.config import MachineParams
from r1omni.machine.imports import quick_imports

# The environment variable with the rendezvous file of our own launcher. A port would be open to
# the network, and launcher and ranks exchange pickles.
RENDEZVOUS_FILE = "R1OMNI_RENDEZVOUS_FILE"
SHUTDOWN_SECONDS = 600  # from SIGTERM to SIGKILL: ranks finish their step and save a state
LOG_TAIL = 2000  # characters from the end of a failed rank's output that are shown
PEER_LOST = 75  # the exit code of a rank that ended because another one did
# gloo's messages ("Connection reset by peer", "Broken pipe"), and torch's error types for NCCL.
PEER_LOST_MESSAGES, PEER_LOST_TYPES = (
    ("by peer", "Broken pipe"),
    ("DistBackendError", "DistNetworkError"),
)


def launch_ranks(machine: MachineParams, command: Sequence[str] | None = None) -> int | None:
    """The exit code of the ranks, or None if this process must run the stage itself.

    Each rank runs `command`, by default this process's own command line. SIGTERM is passed on to
    the ranks. If a rank fails, the others are ended and the end of its output goes to standard
    error. After a SIGKILL (as of the kernel when memory runs out) all ranks start again, at most
    machine.restarts times.
    """
    if "RANK" in os.environ or machine.processes == 1:
        return None
    own = list(command or [sys.executable, "-m", "r1omni", *sys.argv[1:]])
    for left in range(machine.restarts, -1, -1):
        with tempfile.TemporaryDirectory(prefix="r1omni-ranks-") as folder:
            code = _run(own, machine.processes, Path(folder))
        if code != 128 + signal.SIGKILL or not left:
            break
        sys.stderr.write(f"going on from the last state (machine.restarts: {left} left)\n")
    return code


def is_peer_loss(error: BaseException) -> bool:
    """Whether a rank's error only reports that another rank has ended."""
    by_message = any(message in str(error) for message in PEER_LOST_MESSAGES)
    return by_message or type(error).__name__ in PEER_LOST_TYPES


def _run(command: Sequence[str], n: int, folder: Path) -> int:
    """Run `command` in n ranks. Returns 0, or the exit code of the rank that failed."""
    with quick_imports():
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ[RENDEZVOUS_FILE] = str(folder / "ranks")
    quiet = dict.fromkeys(range(1, n), Std.ALL)  # rank 0 writes to the terminal, others to files
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "launcher"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=quiet),
        max_restarts=0,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        return _report_failure(error.failures, folder)
    return 0


def _report_failure(failures: Mapping[int, Any], folder: Path) -> int:
    """The exit code of the rank that caused the failure; writes its number and output to stderr.

    A killed rank is the cause. A rank that lost its peer, or that the launcher ended, is not.
    """
    codes = {rank: int(failure.exitcode) for rank, failure in failures.items()}
    ended = {PEER_LOST, -signal.SIGTERM, 128 + signal.SIGTERM}  # because of another rank
    failed = min(codes, key=lambda r: (codes[r] != -signal.SIGKILL, codes[r] in ended, r))
    code = codes[failed]
    if code == -signal.SIGKILL:
        sys.stderr.write(f"rank {failed} was killed (SIGKILL: out of memory?)\n")
    elif failed > 0:  # rank 0 writes to the terminal itself
        logs = [p.read_text(encoding="utf-8", errors="replace")
                for p in sorted(folder.glob(f"*/attempt_0/{failed}/std*.log"))]  # fmt: skip
        tail = "\n".join(text.strip() for text in logs)[-LOG_TAIL:]
        sys.stderr.write(f"rank {failed} ended with code {code}; the end of its output:\n{tail}\n")
    return code if code > 0 else 128 - code
