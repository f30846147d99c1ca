"""One stage command, N processes: torch's own launcher starts them on this machine.

Every rank runs this very command again, with RANK and WORLD_SIZE in its environment; they meet at a
file.
A process that has RANK already was launched by something else (torchrun, srun, DeepSpeed's
launcher), on one machine or on several, and trains by itself. Imports torch late.
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

# A file where the ranks of our own launcher find each other. A port would be open to the network,
# and what launcher and ranks tell each other is pickled.
MEETING = "R1OMNI_MEETING"
PATIENCE = 600  # seconds after SIGTERM in which ranks end their step and save a state
SAID = 2000  # characters of a failed rank's last words that are repeated
PEER_LOST = 75  # the exit code of a rank that ended because another one did
# gloo's words ("Connection reset by peer", "Broken pipe"), and torch's errors for NCCL's.
LOST_WORDS, LOST_TYPES = ("by peer", "Broken pipe"), ("DistBackendError", "DistNetworkError")


def launch_ranks(machine: MachineParams, command: Sequence[str] | None = None) -> int | None:
    """The exit code of the ranks' runs, or None where this process is to train by itself.

    `command`: what each rank runs; without it, this process's own command. SIGTERM is passed on to
    the ranks. When one fails the others are ended, and what the failed one said last is repeated on
    standard error. Where one was killed (SIGKILL, which is how the kernel ends who takes too much
    memory) all start again, machine.restarts times at most.
    """
    if "RANK" in os.environ or machine.processes == 1:
        return None
    own = list(command or [sys.executable, "-m", "r1omni.cli", *sys.argv[1:]])
    for left in range(machine.restarts, -1, -1):
        with tempfile.TemporaryDirectory(prefix="r1omni-ranks-") as folder:
            code = _run(own, machine.processes, Path(folder))
        if code != 128 + signal.SIGKILL or not left:
            break
        sys.stderr.write(f"going on from the last state (machine.restarts: {left} left)\n")
    return code


def lost_peer(error: BaseException) -> bool:
    """Whether a rank's error says no more than that another rank has ended."""
    said = any(words in str(error) for words in LOST_WORDS)
    return said or type(error).__name__ in LOST_TYPES


def _run(command: Sequence[str], n: int, folder: Path) -> int:
    """Run `command` in n ranks until all have ended; 0, or the exit code of the one that failed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ[MEETING] = str(folder / "ranks")
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
        shutdown_timeout=PATIENCE,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        return _explain(error.failures, folder)
    return 0


def _explain(failures: Mapping[int, Any], folder: Path) -> int:
    """The exit code of the rank that failed by itself, which is named.

    A killed rank is a cause; one that lost contact to another, or was ended for it, a consequence.
    """
    codes = {rank: int(failure.exitcode) for rank, failure in failures.items()}
    ended = {PEER_LOST, -signal.SIGTERM, 128 + signal.SIGTERM}  # as the launcher ends the others
    failed = min(codes, key=lambda r: (codes[r] != -signal.SIGKILL, codes[r] in ended, r))
    code = codes[failed]
    if code == -signal.SIGKILL:
        sys.stderr.write(f"rank {failed} was killed (SIGKILL: out of memory?)\n")
    elif failed > 0:  # rank 0 has said it itself
        said = [p.read_text(encoding="utf-8", errors="replace")
                for p in sorted(folder.glob(f"*/attempt_0/{failed}/std*.log"))]  # fmt: skip
        words = "\n".join(text.strip() for text in said)[-SAID:]
        sys.stderr.write(f"rank {failed} ended with code {code}; the last it said:\n{words}\n")
    return code if code > 0 else 128 - code
