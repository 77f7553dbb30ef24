"""A thread that answers a caller who does not read."""

import socket
import time
from collections.abc import Iterator

import pytest

from routes.buffered_socket import MOST_UNSENT_BYTES, BufferedSocket

ANSWER = bytes(range(256)) * 1500


@pytest.fixture
def pair() -> Iterator[tuple[BufferedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        yield BufferedSocket(ours), theirs


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_an_answer_that_is_not_taken_is_kept_and_nobody_waits(
    pair: tuple[BufferedSocket, socket.socket], timeout: float | None
) -> None:
    ours, theirs = pair
    ours.settimeout(timeout)
    began = time.monotonic()
    ours.sendall(ANSWER)
    ours.send(b"end")
    assert time.monotonic() - began < 5
    assert len(ours.unsent) > len(ANSWER) // 2
    assert ours.gettimeout() == timeout
    came = b""
    while len(came) < len(ANSWER) + 3:
        came += theirs.recv(65536)
        ours.send_unsent()
    assert came == ANSWER + b"end"
    assert ours.unsent == b""


def test_of_a_download_no_more_is_kept_than_the_limit(pair: tuple[BufferedSocket, socket.socket]) -> None:
    ours, _ = pair
    ours.settimeout(0.2)
    ours.sendall(b"x" * MOST_UNSENT_BYTES)
    with pytest.raises(TimeoutError):
        ours.sendall(b"x" * MOST_UNSENT_BYTES)
    # What is left of it may have gone in part: it must not be sent once more.
    assert ours.unsent == b""
