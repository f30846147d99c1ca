"""Work on an existing Ray cluster (extra `ray`): plain tasks that Ray repeats where a node dies.

All nodes need this project's folder, its corpora and the same code at the same paths: a shared file
system.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from r1omni.own_code import code_at_start

CONNECT_SECONDS = 5.0
RETRIES = 8  # of a task whose process or node was lost; more, and the task itself is the cause
Item = TypeVar("Item")
Result = TypeVar("Result")


class OtherCode(RuntimeError):
    """A node of the cluster has other code than the driver."""


def run_on_ray(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    address: str | None,
    cpus: int,
    gpus: int = 0,
) -> Iterator[Result]:
    """What `work` returns for each item, as soon as it is there, in any order.

    `work` must be picklable, such as a functools.partial of a module's function. `address`: the
    cluster's, host:port; None: the one that this machine belongs to. `cpus`, `gpus`: of a task.
    Twice as many tasks as the cluster has room for are under way, so `items` may be endless.
    Raises what `work` raises; ValueError if Ray is not installed; ConnectionError without a
    cluster; OtherCode; RuntimeError for a task that is lost again and again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise ValueError(
            f"machine.engine: ray needs an extra ({error}): in the repository, "
            "pip install -c constraints.txt -e '.[ray]'"
        ) from error
    if address is not None:
        _check_listens(address)
    ray.init(address=address or "auto", log_to_driver=False, ignore_reinit_error=True)
    task = ray.remote(_run).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
    room = ray.cluster_resources()
    width = 2 * max(1, int(room.get("CPU", 0)) // cpus)
    waiting = iter(items)
    code, folder = dict(code_at_start()), Path.cwd()
    under_way: list[Any] = []
    try:
        while True:
            fresh = islice(waiting, width - len(under_way))
            under_way += [task.remote(work, item, code, folder) for item in fresh]
            if not under_way:
                return
            done, under_way = ray.wait(under_way)
            yield from ray.get(done)
    except RayTaskError as error:  # its text is the node's traceback
        raise error.cause from error
    except RayError as error:
        raise RuntimeError(
            f"a task of the Ray cluster was lost {RETRIES + 1} times, by its node or for its "
            f"memory; what is finished is kept: {error}"
        ) from error
    finally:
        for reference in under_way:
            ray.cancel(reference)


def chunks(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _check_listens(address: str) -> None:
    """Raise ConnectionError where nothing listens: Ray itself would try for five minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"machine.ray_address: no Ray cluster answers at {address}: {error}; start one with "
            "`ray start --head`, or set machine.engine to local"
        ) from error


def _run(work: Callable[[Item], Result], item: Item, code: dict[str, str], folder: Path) -> Result:
    """On a node: the work of one item, in the project's folder."""
    own = code_at_start()
    names = code.keys() | own.keys()
    if changed := sorted(name for name in names if code.get(name) != own.get(name)):
        raise OtherCode(
            f"node {os.uname().nodename} has another version of {', '.join(changed[:3])}: all "
            "nodes of the Ray cluster need the code from which the stage was started"
        )
    os.chdir(folder)
    return work(item)
