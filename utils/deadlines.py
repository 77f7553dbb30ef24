"""One deadline for a whole exchange over a socket, so that a server that drips does not prolong it."""

from __future__ import annotations

import io
import socket
import time
from typing import Any


def boot_clock() -> float:
    """Seconds that go on also while the machine sleeps, which `time.monotonic()` does not count on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Deadline:
    """`not_after`: a moment of `boot_clock()` that ends it earlier."""

    def __init__(self, seconds: float, not_after: float | None = None) -> None:
        self._ends_at = time.monotonic() + seconds
        self._not_after = not_after

    def seconds_left(self) -> float:
        """Raises TimeoutError where nothing is left."""
        left = self._left()
        if left <= 0:
            raise TimeoutError("the deadline of the exchange has passed")
        return left

    @property
    def is_over(self) -> bool:
        return self._left() <= 0

    def _left(self) -> float:
        left = self._ends_at - time.monotonic()
        return left if self._not_after is None else min(left, self._not_after - boot_clock())


class ClockedSocket(io.RawIOBase):
    """Reads that get only the time left, so that a byte now and then does not prolong the exchange."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.seconds_left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
