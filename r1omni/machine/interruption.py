"""SIGTERM during a training: finish the step, save the state, exit.

The exit code is 143 (128 + SIGTERM), so DVC and Prefect see a stage that failed. The next run of
the stage continues after the saved step.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM

logger = logging.getLogger(__name__)


class Stopped(SystemExit):
    """The training received SIGTERM and has saved its state; the exit code is 143."""

    def __init__(self, step: int) -> None:
        super().__init__(EXIT_CODE)
        logger.warning("stopped by SIGTERM after step %d; the next run continues there", step)


@contextmanager
def defer_sigterm() -> Iterator[Callable[[], bool]]:
    """Keep SIGTERM from ending the block; yields a function that says whether it was received."""
    came = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        came.set()

    if threading.current_thread() is not threading.main_thread():  # Python allows no handler there
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
