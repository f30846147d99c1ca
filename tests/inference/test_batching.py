"""Items that wait while a batch runs are the next batch; each thread gets its own results."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from r1omni.inference.batching import Batcher


def test_items_that_wait_while_a_batch_runs_are_the_next_batch_up_to_its_size() -> None:
    entered, go_on = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def square(items: list[int]) -> list[int]:
        batches.append(items)
        if len(batches) == 1:
            entered.set()
            assert go_on.wait(10)
        return [item**2 for item in items]

    batcher = Batcher(square, batch_size=4)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(batcher.results, [1])
        assert entered.wait(10)
        others = [threads.submit(batcher.results, [10 * i, 10 * i + 1]) for i in range(1, 6)]
        while len(batcher._queue) < 10:
            pass
        go_on.set()
        assert first.result(10) == [1]
        for i, other in enumerate(others, start=1):
            assert other.result(10) == [(10 * i) ** 2, (10 * i + 1) ** 2]
    assert batches[0] == [1]
    assert [len(batch) for batch in batches] == [1, 4, 4, 2]
    assert batcher.results([]) == []


def test_an_error_reaches_the_threads_of_its_batch_and_no_other() -> None:
    def inverse(items: list[int]) -> list[float]:
        return [1 / item for item in items]

    batcher = Batcher(inverse, batch_size=2)
    with pytest.raises(ZeroDivisionError):
        batcher.results([1, 0])
    assert batcher.results([2, 4, 8]) == [0.5, 0.25, 0.125]
