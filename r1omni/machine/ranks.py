"""The process group of a training, and its collectives.

Every rank runs the same stage on its own share of each global batch. Ranks communicate only in the
functions here and in the engine's update, which each rank calls exactly once a step. So content (no
audio, no variance, an empty share at an uneven end) can neither reorder nor stall collectives.

Two timeouts. The collectives of a step are between ranks that do equal work: they fail after
machine.collective_timeout_seconds. Where rank 0 alone works (it converts a checkpoint of gigabytes,
hashes a state, moves files), or ranks do different work, the others have PATIENCE.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from r1omni.config import MachineParams
from r1omni.machine.device import NO_DEVICE, choose_attention, count_devices
from r1omni.machine.environment import is_first, local_rank, rank, world_size
from r1omni.machine.launch import RENDEZVOUS_FILE

# The number of ranks on this machine: our launcher and torchrun set the first, DeepSpeed's the
# second.
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
# The longest wait for rank 0 and for unequal work. A rank that dies is noticed at once; the timeout
# is for a machine that has gone.
PATIENCE = timedelta(minutes=30)
TIMED_OUT = "Timed out waiting"  # gloo's words, of a send or a receive

logger = logging.getLogger(__name__)

T = TypeVar("T")


class RankMissing(RuntimeError):
    """A step's collective timed out; names the timeout, its key, and what to do."""


@dataclass(frozen=True)
class _StepGroup:
    """The ranks of a step's collectives on the host, through gloo, whatever the device is.

    gloo raises an error that names itself, in the process that waited; NCCL's watchdog ends it.
    """

    ranks: Any
    timeout: timedelta


_step_group: _StepGroup | None = None  # of the process group; join_ranks makes both


def join_ranks(machine: MachineParams) -> torch.device:
    """The device to train on; joins the launcher's process group, or makes one of a single rank.

    If this machine has fewer devices than processes, all train on the CPU and a warning is logged.
    With machine.device cuda, or with ranks on other machines, it raises ValueError instead. May be
    called again.
    """
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    device = torch.device("cpu")
    if _has_devices(machine):
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        choose_attention()
    os.environ["DS_ACCELERATOR"] = device.type  # DeepSpeed reads it when it is imported
    if not distributed.is_initialized():
        alone, store = world_size() == 1, _store()
        if not alone:
            _check_device_kinds(store, device.type, rank(), world_size())
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=rank(),
            world_size=world_size(),
            store=store,
            timeout=PATIENCE,
            # Without it NCCL takes the global rank, which is wrong on the second of two machines.
            device_id=None if device.type == "cpu" or alone else device,
        )
        if not alone:
            global _step_group
            timeout = timedelta(seconds=machine.collective_timeout_seconds)
            ranks = distributed.new_group(backend="gloo", timeout=timeout)
            _step_group = _StepGroup(ranks, timeout)
    return device


def limit_wait(group: Any) -> None:
    """Give another group of a step's collectives, DeepSpeed's, the same timeout."""
    if _step_group is not None and group is not None:
        group.set_timeout(_step_group.timeout)


@contextmanager
def step_collectives() -> Iterator[None]:
    """Around collectives of a step. Raises RankMissing where one timed out."""
    try:
        yield
    except RuntimeError as error:
        if _step_group is None or TIMED_OUT not in str(error):
            raise
        seconds = _step_group.timeout.total_seconds()
        raise RankMissing(
            f"rank {rank()} waited {seconds:g} s for another rank in a step "
            "(machine.collective_timeout_seconds): that rank hangs, its machine has gone, or its "
            "share takes so much longer; raise the key if it is only slower, and run the stage "
            "again to go on from the last state"
        ) from error


def _has_devices(machine: MachineParams) -> bool:
    """Whether the processes of this machine train on CUDA devices, one device each."""
    n_devices = count_devices()
    if machine.device == "cpu" or (machine.device == "auto" and n_devices == 0):
        return False
    if n_devices == 0:
        raise ValueError(NO_DEVICE)
    # If the launcher does not say how many ranks this machine has, it has at least local_rank + 1.
    known = next((int(os.environ[name]) for name in LOCAL_SIZES if name in os.environ), None)
    local = known or local_rank() + 1
    if n_devices >= local:
        return True
    short = (
        f"{local} processes of this machine would share {n_devices} CUDA "
        f"device{'s' * (n_devices != 1)}"
    )
    if machine.device == "cuda" or known != world_size():  # other machines may have enough
        raise ValueError(f"{short}: set machine.processes to {n_devices}, or machine.device to cpu")
    if is_first() and not distributed.is_initialized():
        logger.warning("%s: training on the CPU; machine.processes: %d uses them", short, n_devices)
    return False


def _check_device_kinds(store: Any, kind: str, own: int, size: int) -> None:
    """Raise ValueError on every rank if some rank has another kind of device than rank 0.

    Such ranks would wait for each other in different backends.
    """
    store.set(f"r1omni-device-{own}", kind)
    kinds = [store.get(f"r1omni-device-{other}").decode() for other in range(size)]
    for other, found in enumerate(kinds):
        if found != kinds[0]:
            raise ValueError(
                f"rank 0 would train on {kinds[0]} and rank {other} on {found}: set machine.device "
                "to one that every machine has"
            )


def shares(n: int, micro_batch_size: int | None = None) -> list[range]:
    """This rank's indices in a global batch of n, in parts of at most `micro_batch_size`.

    Each rank has a contiguous range; their lengths differ by 1 at most. If n is less than the
    number of ranks, some ranks have none.
    """
    own = _cut(range(n), world_size())[rank()]
    return _cut(own, -(-len(own) // (micro_batch_size or len(own)))) if own else []


def barrier() -> None:
    """Wait for all ranks, with PATIENCE: one of them may be writing or hashing files."""
    if world_size() > 1:
        distributed.barrier()


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """The sums over all ranks, in float64, the same on every rank; a step's collective."""
    if world_size() == 1:
        return list(values)
    assert _step_group is not None, "join_ranks was not called"
    tensor = torch.tensor(values, dtype=torch.float64)
    with step_collectives():
        distributed.all_reduce(tensor, group=_step_group.ranks)
    return [float(v) for v in tensor.tolist()]


def any_rank(here: bool) -> bool:
    """Whether `here` is true on any rank; the same answer on every rank; a step's collective."""
    return sum_over_ranks([float(here)])[0] > 0


def gather(value: T) -> list[T]:
    """Every rank's value, in the order of ranks; the same list on every rank; a step's collective.

    Where ranks have done unequal work, call `gather_patiently`.
    """
    if world_size() == 1:
        return [value]
    assert _step_group is not None, "join_ranks was not called"
    with step_collectives():
        return _gather(value, _step_group.ranks)


def gather_patiently(value: T) -> list[T]:
    """As `gather`, with PATIENCE: rank 0 alone, or each rank something else, worked before."""
    return [value] if world_size() == 1 else _gather(value, None)


def _gather(value: T, group: Any) -> list[T]:
    values: list[T | None] = [None] * world_size()
    distributed.all_gather_object(values, value, group=group)
    return values  # type: ignore[return-value]  # every rank has set its own


def assigned_names(names: Sequence[str]) -> list[str]:
    """The independent trainings that this rank does, of `names`; each has at least one rank.

    Ranks beyond the number of names repeat the work of another.
    """
    parties = min(world_size(), len(names))
    return list(names[rank() % parties :: parties])


def gather_dict(own: Mapping[str, T]) -> dict[str, T]:
    """The union of every rank's dict, the same on every rank, with PATIENCE."""
    return {name: value for part in gather_patiently(own) for name, value in part.items()}


def _cut(whole: range, parts: int) -> list[range]:
    """`whole` in `parts` contiguous pieces whose lengths differ by one at most."""
    bounds = [whole.start + len(whole) * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def _store() -> Any:
    """The rendezvous: our launcher's file, or another launcher's MASTER_ADDR and MASTER_PORT."""
    if world_size() == 1:
        return distributed.HashStore()  # type: ignore[attr-defined]  # no other rank
    if RENDEZVOUS_FILE in os.environ:
        store = distributed.FileStore(os.environ[RENDEZVOUS_FILE], world_size())  # type: ignore[attr-defined]
        store.set_timeout(PATIENCE)
        return store
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return store
