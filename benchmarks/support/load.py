"""A load generator that costs little: raw sockets kept open, bytes made beforehand, one thread.

Each connection sends its next request when its last one was answered, as AT's do.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import quantiles

from benchmarks.support.processes import TIMEOUT_SECONDS, CannotMeasure, owner_of

STALLED_SECONDS = 30.0
LARGEST_READ = 65536
OK = b"HTTP/1.1 200 "
END_OF_HEADERS = b"\r\n\r\n"
LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True)
class Slice:
    """One uninterrupted stretch of load. Latencies in milliseconds, sorted."""

    answered: int
    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds


def percentile(values: Iterable[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def http_post(path: str, body: bytes, content_type: str, headers: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


class Connections:
    """`count` connections to one server, reused from slice to slice.

    With `process_ids` each of these web processes holds as many: left to chance, the first to wake may take
    them all, and the others do nothing.
    """

    def __init__(self, port: int, count: int, process_ids: Sequence[int] = ()) -> None:
        self._sockets: list[socket.socket] = []
        owners: Sequence[int | None] = process_ids or (None,)
        shares = Counter({one: count // len(owners) for one in owners})
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while +shares:
            if time.monotonic() > deadline:
                raise CannotMeasure("the web processes did not share the connections")
            opened, owner = _open(port, process_ids)
            if shares[owner] > 0:
                self._sockets.append(opened)
                shares[owner] -= 1
            else:
                opened.close()
        self._by_number = {one.fileno(): one for one in self._sockets}

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def send_all(self, requests: Iterable[bytes], expected: bytes = OK) -> Slice:
        """Every request once, taken as it is sent: a generator may end them when enough was seen.

        Raises CannotMeasure at the first answer that does not begin as `expected`.
        """
        waiting = iter(requests)
        sent_at: dict[int, float] = {}
        latencies: list[float] = []
        poll = select.epoll()
        for number in self._by_number:
            poll.register(number, select.EPOLLIN)
        gc.disable()
        try:
            started = time.perf_counter()
            for number, one in self._by_number.items():
                _send_next(one, number, waiting, sent_at)
            while sent_at:
                events = poll.poll(STALLED_SECONDS)
                if not events:
                    raise CannotMeasure(f"no answer for {STALLED_SECONDS:.0f} seconds")
                for number, _ in events:
                    one = self._by_number[number]
                    _read_answer(one, expected)
                    latencies.append(time.perf_counter() - sent_at.pop(number))
                    _send_next(one, number, waiting, sent_at)
            seconds = time.perf_counter() - started
        finally:
            gc.enable()
            poll.close()
        return Slice(len(latencies), seconds, sorted(one * 1000 for one in latencies))


def _open(port: int, process_ids: Sequence[int]) -> tuple[socket.socket, int | None]:
    """A connection that was answered once, and the process that holds it."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=STALLED_SECONDS)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    _read_answer(opened, b"HTTP/1.1 ")
    return opened, owner_of(opened, process_ids)


def _send_next(one: socket.socket, number: int, waiting: Iterator[bytes], sent_at: dict[int, float]) -> None:
    request = next(waiting, None)
    if request is not None:
        sent_at[number] = time.perf_counter()
        one.sendall(request)


def _read_answer(one: socket.socket, expected: bytes) -> None:
    """The whole of it: the rest would be taken for the answer to the next request."""
    answer = one.recv(LARGEST_READ)
    while answer and not _is_complete(answer):
        more = one.recv(LARGEST_READ)
        if not more:
            break
        answer += more
    if not answer.startswith(expected):
        raise CannotMeasure(f"an unexpected answer: {answer[:500]!r}")


def _is_complete(answer: bytes) -> bool:
    head, end, body = answer.partition(END_OF_HEADERS)
    if not end:
        return False
    at = head.lower().find(LENGTH)
    return len(body) >= int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
