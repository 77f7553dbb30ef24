"""Callers who hold a connection and never finish, against the real gunicorn.

`SILENT_SOCKETS_SECONDS=180` holds each kind for three minutes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support.databases import empty_database
from tests.support.stack import API_KEY, TOKEN, Stack, eventually

pytestmark = pytest.mark.processes
HELD_SECONDS = float(os.environ.get("SILENT_SOCKETS_SECONDS", "4"))
SOCKETS = 200
SLOWEST_SECONDS = 1.0
PAUSE_SECONDS = 0.02
CALLBACK = f"POST /sms/twoway?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
JSON = (
    "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n"
    f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
)
LENGTH = "Content-Length: 100\r\n\r\n"
STATUS = b"GET /sms/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
Say = Callable[[socket.socket], None]


def nothing(_line: socket.socket) -> None:
    return None


def one_byte(line: socket.socket) -> None:
    line.send(b"P")


def half_a_head(line: socket.socket) -> None:
    line.send(CALLBACK.encode())


def half_a_body(line: socket.socket) -> None:
    line.send((CALLBACK + FORM + LENGTH).encode() + b"from=%2B254711")


def half_a_chunk(line: socket.socket) -> None:
    line.send((CALLBACK + FORM + "Transfer-Encoding: chunked\r\n\r\n").encode() + b"10\r\n0\r\n\r\n")


def half_a_body_without_a_token(line: socket.socket) -> None:
    line.send(f"POST /sms/twoway HTTP/1.1\r\nHost: localhost\r\n{FORM}{LENGTH}".encode() + b"from=")


def a_length_with_leading_zeros(line: socket.socket) -> None:
    line.send(f"{JSON}Content-Length: {100:030d}\r\n\r\n{{".encode())


def a_length_beyond_all_measure(line: socket.socket) -> None:
    line.send(f"{JSON}Content-Length: {10**40}\r\n\r\n{{".encode())


def a_chunk_size_with_leading_zeros(line: socket.socket) -> None:
    line.send(f"{JSON}Transfer-Encoding: chunked\r\n\r\n{16:020x}\r\n{{".encode())


def half_of_a_long_body(line: socket.socket) -> None:
    line.sendall(f"{JSON}Content-Length: 1000000\r\n\r\n".encode() + b"[" * 330_000)


def requests_whose_answers_are_not_read(line: socket.socket) -> None:
    line.setblocking(False)
    try:
        while line.send(STATUS * 500):
            pass
    except BlockingIOError:
        pass


def an_answer_and_no_end(line: socket.socket) -> None:
    line.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


KINDS: list[Say] = [
    nothing,
    one_byte,
    half_a_head,
    half_a_body,
    half_a_chunk,
    half_a_body_without_a_token,
    a_length_with_leading_zeros,
    a_length_beyond_all_measure,
    a_chunk_size_with_leading_zeros,
    half_of_a_long_body,
    requests_whose_answers_are_not_read,
    an_answer_and_no_end,
]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("silent")
    with empty_database("sqlite", folder) as url:
        stack = Stack(folder, url)
        try:
            stack.migrate()
            stack.start("web")
            eventually(lambda: answers(stack), "the web process answers")
            yield stack
        finally:
            stack.close()


def answers(stack: Stack) -> bool:
    try:
        return stack.session.get(f"{stack.web_url}/healthz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def hold(stack: Stack, say: Say, held: ExitStack) -> list[socket.socket]:
    lines = []
    for _ in range(SOCKETS):
        line = held.enter_context(socket.create_connection(("127.0.0.1", stack.web_port), timeout=10))
        say(line)
        lines.append(line)
    return lines


def measure(stack: Stack, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> list[float]:
    """What callbacks with a health check took, on connections of their own; in order."""
    took = []
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        began = time.monotonic()
        fields = {"id": f"{id(took)}-{number}", "from": "+254711000001", "to": "20880", "text": "Hello"}
        answer = requests.post(
            f"{stack.web_url}/sms/twoway", params={"token": TOKEN}, data=fields, timeout=10
        )
        assert answer.status_code == 200
        assert requests.get(f"{stack.web_url}/healthz", timeout=10).status_code == 200
        took.append(time.monotonic() - began)
        meanwhile()
        # The service has the processor to itself for a moment: this test is about waiting, not about load.
        time.sleep(PAUSE_SECONDS)
    return sorted(took)


def percentile_99(took: list[float]) -> float:
    return took[min(len(took) - 1, len(took) * 99 // 100)]


@pytest.mark.parametrize("say", KINDS, ids=lambda say: say.__name__)
def test_two_hundred_unfinished_requests_delay_no_callback(
    web: Stack, say: Say, told: Callable[[str], None]
) -> None:
    with ExitStack() as held:
        hold(web, say, held)
        took = measure(web, HELD_SECONDS)
    told(f"{say.__name__}: p99 {percentile_99(took) * 1000:.0f} ms, the slowest {took[-1] * 1000:.0f} ms")
    assert percentile_99(took) < SLOWEST_SECONDS


def test_a_byte_now_and_then_holds_a_connection_no_longer_than_its_deadline(web: Stack) -> None:
    with ExitStack() as held:
        lines = hold(web, half_a_head, held)
        closed: set[socket.socket] = set()

        def trickle() -> None:
            for line in lines:
                try:
                    line.send(b"X")
                except OSError:
                    closed.add(line)

        assert percentile_99(measure(web, max(HELD_SECONDS, 13), trickle)) < SLOWEST_SECONDS
        assert len(closed) == SOCKETS


def test_requests_sent_at_once_on_one_connection_are_all_answered(web: Stack) -> None:
    with socket.create_connection(("127.0.0.1", web.web_port), timeout=10) as line:
        line.sendall(STATUS * 50)
        line.shutdown(socket.SHUT_WR)
        came = b""
        while piece := line.recv(65536):
            came += piece
    assert came.count(b"HTTP/1.1 200 OK") == 50


def test_a_caller_who_asks_before_sending_a_body_is_told_to_go_on(web: Stack) -> None:
    body = b"id=asked-1&from=%2B254711000001&to=20880&text=Hello"
    head = f"{CALLBACK}{FORM}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", web.web_port), timeout=5) as line:
        line.sendall(STATUS + head.encode())
        came = b""
        while b"100 Continue" not in came:
            came += line.recv(65536)
        line.sendall(body)
        line.shutdown(socket.SHUT_WR)
        while piece := line.recv(65536):
            came += piece
    assert came.count(b"HTTP/1.1 200 OK") == 2
