"""Items of several threads that are answered together, one batch at a time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Calls `answer` for batches of up to `batch_size` items, in the order of their arrival.

    While a batch runs, the items of other threads are queued. They are the next batch, which one of
    the waiting threads runs. So a lone item never waits for others.
    """

    def __init__(self, answer: Callable[[list[Item]], list[Result]], batch_size: int) -> None:
        self._answer = answer
        self._batch_size = batch_size
        self._queue: deque[tuple[Item, Future[Result]]] = deque()
        self._running = threading.Lock()

    def results(self, items: Sequence[Item]) -> list[Result]:
        """The result of each item, in order. Raises what `answer` raised for an item's batch."""
        pairs: list[tuple[Item, Future[Result]]] = [(item, Future()) for item in items]
        self._queue.extend(pairs)
        for _, future in pairs:
            while not future.done():
                with self._running:
                    if not future.done():
                        self._run_batch()
        return [future.result() for _, future in pairs]

    def _run_batch(self) -> None:
        n_items = min(len(self._queue), self._batch_size)
        batch = [self._queue.popleft() for _ in range(n_items)]
        try:
            results = self._answer([item for item, _ in batch])
        except Exception as error:  # each of the batch's threads raises it
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
