"""SIGTERM and SIGINT, as a question that the main thread asks."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class StopSignals:
    """From now on both of them only write to a pipe.

    A handler that set the Event for which everybody waits hung: a second signal, or one that came while the main thread
    was about to wait, found the lock of the Event held by the very thread that it had interrupted.
    """

    def __init__(self) -> None:
        self._heard, writing = os.pipe()
        os.set_blocking(writing, False)
        # Full: it was told already.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _do_nothing)

    def wait(self, seconds: float) -> bool:
        """Whether one has come, or comes by then."""
        heard, _, _ = select.select([self._heard], [], [], seconds)
        return bool(heard)


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    """Without a handler of ours Python would end the process."""
