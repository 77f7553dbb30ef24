"""Stands between a service and PostgreSQL, and cuts a connection at its COMMIT: before the server has it, or after."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from sqlalchemy.engine import make_url

# A simple query of the protocol: its letter, its length, the text, a zero.
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
PIECE_BYTES = 65_536
NEVER, BEFORE, AFTER = "never", "before", "after"


class PostgresqlProxy:
    """`cut_at_commit`: NEVER; BEFORE the server gets the COMMIT; AFTER it got it. `on_cut()` comes just before.

    `cuts`: how many were cut there. What the server answers to that COMMIT is never passed on.
    `is_away`: no connection lives, and none that begins.
    """

    def __init__(self, server_url: str) -> None:
        self._server = make_url(server_url)
        self.cut_at_commit = NEVER
        self.on_cut: Callable[[], object] = lambda: None
        self.is_away = False
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="postgresql-proxy")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """The server's, through this proxy."""
        port = int(self._listener.getsockname()[1])
        return self._server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def __enter__(self) -> PostgresqlProxy:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closing.is_set():
                if selector.select(0.05):
                    client, _ = self._listener.accept()
                    thread = threading.Thread(target=self._serve, args=(client,), name="postgresql-proxied")
                    self._threads.append(thread)
                    thread.start()

    def _serve(self, client: socket.socket) -> None:
        address = (self._server.host or "127.0.0.1", self._server.port or 5432)
        with client, socket.create_connection(address) as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not (self._closing.is_set() or self.is_away):
                for key, _ in selector.select(0.05):
                    if not self._pass_on(key.fileobj, key.data, is_from_client=key.fileobj is client):
                        return

    def _pass_on(self, source: object, target: socket.socket, *, is_from_client: bool) -> bool:
        """False: this connection is over."""
        assert isinstance(source, socket.socket)
        try:
            piece = source.recv(PIECE_BYTES)
            is_cut = is_from_client and COMMIT in piece and self.cut_at_commit != NEVER
            if piece and not (is_cut and self.cut_at_commit == BEFORE):
                target.sendall(piece)
        except ConnectionError:
            return False
        if is_cut:
            self.cuts += 1
            self.on_cut()
        return bool(piece) and not is_cut
