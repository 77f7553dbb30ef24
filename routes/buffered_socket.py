"""What stands between a web thread and a stranger's connection, so that the thread waits for neither side of it."""

from __future__ import annotations

import socket
from typing import Any

# More than any answer that is no download. Beyond, the thread waits: downloads have slots (routes.expensive_calls).
MOST_UNSENT_BYTES = 512 * 1024


class BufferedSocket:
    """A socket that keeps what the caller does not take yet; gunicorn's main loop sends it on."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self.unsent = bytearray()
        # Of the request that a thread has now: one that cannot be parsed is answered in the shape of its caller.
        self.beginning = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def sendall(self, piece: bytes) -> None:
        """Raises BlockingIOError for a caller who takes nothing of a long answer (SO_SNDTIMEO)."""
        self.unsent += piece
        self.send_unsent()
        if len(self.unsent) > MOST_UNSENT_BYTES:
            try:
                self._raw.sendall(self.unsent)
            finally:
                self.unsent.clear()

    def send(self, piece: bytes) -> int:
        self.sendall(piece)
        return len(piece)

    def send_unsent(self) -> None:
        """As much as fits now. A socket with a time-out would wait, whatever flags `send` is given."""
        timeout = self._raw.gettimeout()
        self._raw.setblocking(False)
        try:
            while self.unsent:
                del self.unsent[: self._raw.send(self.unsent)]
        except BlockingIOError:
            pass
        finally:
            self._raw.settimeout(timeout)


class EndOfStream:
    """Gunicorn's parser reads from it where the whole request has come.

    Where the parser finds the request longer than it was measured, it meets the end, not a wait.
    """

    was_met = False

    def recv(self, _size: int) -> bytes:
        self.was_met = True
        return b""
