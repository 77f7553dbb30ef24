"""A server that says exactly the bytes it is told to, and keeps what it was sent. Loopback only."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WIRE = Path(__file__).resolve().parents[1] / "wire"

Say = Callable[[socket.socket, bytes], None]  # the connection, and the request it is to answer


class RawServer:
    """One `say` per connection or request, in order; the last one for all that follow."""

    def __init__(self, *says: Say) -> None:
        self._says: Sequence[Say] = says
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._context: ssl.SSLContext | None = None
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def secure_with(self, context: ssl.SSLContext) -> None:
        self._context = context

    def start(self) -> None:
        self._run(self._accept)

    def stop(self) -> None:
        # Shutting down wakes the threads that wait in accept and recv; closing alone does not.
        for sock in (self._listener, *self.connections):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self.connections.append(connection)
            while request := read_request(connection):
                self.requests.append(request)
                self._says[min(len(self.requests), len(self._says)) - 1](connection, request)
        except OSError:
            return


def read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65_536)
        if not chunk:
            return b""
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < lengths[0]:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def reply(body: bytes | str, status: str = "201 Created", *headers: str) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status}",
        *headers,
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def wire(name: str) -> bytes:
    return (WIRE / name).read_bytes()


def says(content: bytes) -> Say:
    return lambda connection, request: connection.sendall(content)


@contextmanager
def serving(*what: Say) -> Iterator[RawServer]:
    server = RawServer(*what)
    server.start()
    try:
        yield server
    finally:
        server.stop()
