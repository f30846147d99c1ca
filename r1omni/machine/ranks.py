"""Which of N training processes this one is, and the little they say to each other.

Every rank runs the same stage on its own share of each global batch. What one rank does with its
share is its own business: ranks meet only in the functions here and in the engine's update, which
each of them calls exactly once a step, so that content (no audio, no variance, an empty share at
an uneven end) can neither change the order of collectives nor stall them.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from r1omni.config import MachineParams
from r1omni.machine.device import NO_DEVICE, count_devices
from r1omni.machine.environment import is_first, local_rank, rank, world_size
from r1omni.machine.launch import MEETING

# How many ranks this machine has: our launcher and torchrun say it by the first, DeepSpeed's by the
# second.
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
# The longest that ranks wait for one that works alone: the first one when it fetches and converts a
# checkpoint of gigabytes, hashes a state, or logs to a store that does not answer. All other work
# is shared. A rank that has died is noticed at once; this is for a machine that is no longer there.
PATIENCE = timedelta(minutes=30)

logger = logging.getLogger(__name__)

T = TypeVar("T")


def join_ranks(machine: MachineParams) -> torch.device:
    """The device to train on, with the process group joined: the launcher's, or one of its own.

    Raises ValueError where machine.device is cuda and not every process of this machine has a
    device of its own; with auto they then train on the CPU, which is said. May be called again.
    """
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    device = torch.device("cpu")
    if _has_devices(machine):
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    os.environ["DS_ACCELERATOR"] = device.type  # what DeepSpeed goes by when it is imported
    if not distributed.is_initialized():
        alone, store = world_size() == 1, _store()
        if not alone:
            _agree(store, device.type, rank(), world_size())
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=rank(),
            world_size=world_size(),
            store=store,
            timeout=PATIENCE,
            # Else NCCL guesses one by the global rank, wrongly on the second of two machines.
            device_id=None if device.type == "cpu" or alone else device,
        )
    return device


def _has_devices(machine: MachineParams) -> bool:
    """Whether the processes of this machine train on CUDA devices, one each."""
    n_devices = count_devices()
    if machine.device == "cpu" or (machine.device == "auto" and n_devices == 0):
        return False
    if n_devices == 0:
        raise ValueError(NO_DEVICE)
    # Without a word of how many share the machine, what is known is that there are so many.
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


def _agree(store: Any, kind: str, own: int, size: int) -> None:
    """Raise ValueError on every rank where one trains on another kind of device than the first.

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
    """This rank's places in a global batch of n, `micro_batch_size` at most in each part.

    Ranks take neighbouring places, as equally many as n allows; with fewer places than ranks some
    ranks have none.
    """
    own = _cut(range(n), world_size())[rank()]
    return _cut(own, -(-len(own) // (micro_batch_size or len(own)))) if own else []


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        distributed.barrier()


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """The sums over all ranks, in float64, the same on each of them."""
    if world_size() == 1:
        return list(values)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor)
    return [float(v) for v in tensor.tolist()]


def any_rank(here: bool) -> bool:
    """Whether it is so on any rank; the same answer on all."""
    return sum_over_ranks([float(here)])[0] > 0


def gather(value: T) -> list[T]:
    """Every rank's value, in their order; the same list on all."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # each rank has put its own


def own_names(names: Sequence[str]) -> list[str]:
    """Which of a few independent trainings this rank does; every one is some rank's.

    Ranks beyond the number of names repeat what another does.
    """
    parties = min(world_size(), len(names))
    return list(names[rank() % parties :: parties])


def joined(own: Mapping[str, T]) -> dict[str, T]:
    """What all ranks have under their names, the same on each of them."""
    return {name: value for part in gather(own) for name, value in part.items()}


def _cut(whole: range, parts: int) -> list[range]:
    """`whole` in `parts` neighbouring pieces whose lengths differ by one at most."""
    bounds = [whole.start + len(whole) * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def _store() -> Any:
    """Where the ranks meet: at our launcher's file, or another's MASTER_ADDR and MASTER_PORT."""
    if world_size() == 1:
        return distributed.HashStore()  # type: ignore[attr-defined]  # nobody to meet
    if MEETING in os.environ:
        store = distributed.FileStore(os.environ[MEETING], world_size())  # type: ignore[attr-defined]
        store.set_timeout(PATIENCE)
        return store
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return store
