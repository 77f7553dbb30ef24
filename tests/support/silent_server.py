"""A server on a real socket that accepts everybody and never says a word: what a store that hangs looks like."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType


class SilentServer:
    """`callers`: how many have connected."""

    def __init__(self) -> None:
        self.callers = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._kept: list[socket.socket] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept_all, name="silent-server")
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def postgresql_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/queue"

    def __enter__(self) -> SilentServer:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        for one in (*self._kept, self._listener):
            one.close()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closing.is_set():
                if selector.select(0.05):
                    self._kept.append(self._listener.accept()[0])
                    self.callers += 1
