"""SIGTERM during a training: the step is finished, the state saved, the process leaves.

Exit code 143 (128 + SIGTERM), so that DVC and Prefect see a stage that is not done; the next run
of the stage continues after the step that was saved.
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
    """The training was asked to stop and has saved its state; the exit code is 143."""

    def __init__(self, step: int) -> None:
        super().__init__(EXIT_CODE)
        logger.warning("stopped by SIGTERM after step %d; the next run continues there", step)


@contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, as a function; inside, it no longer ends the process by itself."""
    came = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        came.set()

    if threading.current_thread() is not threading.main_thread():  # where Python has no signals
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
