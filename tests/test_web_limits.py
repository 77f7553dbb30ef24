"""What callers can take of a web process at most, against the real gunicorn with limits as a network has them."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from routes.web_worker import MOST_HELD_BYTES
from tests.support.databases import empty_database
from tests.support.stack import ROOT, TOKEN, Stack, eventually

pytestmark = pytest.mark.processes
# On loopback the kernel takes megabytes for a caller who reads nothing; on a network it begins with this.
CONFIG = f"""
import os
import resource
import socket

if most := int(os.environ.get("MOST_DESCRIPTORS", "0")):
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

exec(open({str(ROOT / "gunicorn.conf.py")!r}).read())

def post_worker_init(worker):
    for listener in worker.sockets:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
"""
HALF_A_BODY = b"POST /sms/twoway HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
DOCS = b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n"
Serve = Callable[..., Stack]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    (tmp_path / "limits.py").write_text(CONFIG)
    with empty_database("sqlite", tmp_path) as url, ExitStack() as opened:

        def serve(**settings: str) -> Stack:
            stack = Stack(tmp_path, url)
            opened.callback(stack.close)
            stack.migrate()
            bind = ["--bind", f"127.0.0.1:{stack.web_port}"]
            stack.start("web", ["gunicorn", "--config", str(tmp_path / "limits.py"), *bind], settings)
            eventually(lambda: stack._answers(f"{stack.web_url}/healthz"), "the web process answers")
            return stack

        yield serve


def caller(stack: Stack, receives: int | None = None) -> socket.socket:
    line = socket.socket()
    if receives is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    line.settimeout(10)
    line.connect(("127.0.0.1", stack.web_port))
    return line


def slowest_callback(stack: Stack, seconds: float) -> float:
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        fields = {"id": f"{stack.web_port}-{len(took)}", "from": "+254711000001", "to": "20880", "text": "Hi"}
        address = f"{stack.web_url}/sms/twoway"
        assert requests.post(address, params={"token": TOKEN}, data=fields, timeout=10).status_code == 200
        took.append(time.monotonic() - began)
    return max(took)


def is_open(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_callers_who_read_an_answer_slowly_hold_no_thread(serve: Serve) -> None:
    stack = serve()
    is_over = threading.Event()
    with ExitStack() as held:
        lines = [held.enter_context(caller(stack, 1024)) for _ in range(60)]

        def read_slowly() -> None:
            while not is_over.wait(1):
                for line in lines:
                    with suppress(OSError):
                        line.recv(2000)

        for line in lines:
            line.sendall(DOCS * 2)
        reader = threading.Thread(target=read_slowly)
        reader.start()
        try:
            # The first one waits for the pages that were asked for before it: 120 of them, whoever reads them.
            assert slowest_callback(stack, 0.1) < 10
            assert slowest_callback(stack, 6) < 1
        finally:
            is_over.set()
            reader.join()


def test_answers_that_are_read_slowly_arrive_whole_and_in_order(serve: Serve) -> None:
    stack = serve()
    whole = requests.get(f"{stack.web_url}/docs", timeout=10).content
    with caller(stack, 4096) as line:
        line.sendall(DOCS * 5 + DOCS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        came = b""
        while piece := line.recv(50_000):
            came += piece
            time.sleep(0.001)
    assert came.count(whole) == 6


def test_silent_connections_leave_the_database_its_descriptors(serve: Serve) -> None:
    stack = serve(MOST_DESCRIPTORS="200")
    with ExitStack() as held:
        lines = [held.enter_context(caller(stack)) for _ in range(250)]
        assert slowest_callback(stack, 1) < 2
        assert not is_open(lines[0])
    assert stack.log("web").count("Booting worker") == 1


def test_what_strangers_send_fills_no_more_memory_than_its_limit(serve: Serve) -> None:
    stack = serve()
    size = 300_000
    fitting = MOST_HELD_BYTES // size
    with ExitStack() as held:
        lines = [held.enter_context(caller(stack)) for _ in range(fitting + 60)]
        for line in lines:
            with suppress(OSError):
                line.sendall(HALF_A_BODY + b"x" * size)
        eventually(lambda: sum(map(is_open, lines)) <= fitting, "the oldest are closed")
        assert is_open(lines[-1])
        assert slowest_callback(stack, 1) < 1


def test_a_stop_waits_for_a_request_that_is_coming_but_not_for_one_that_never_ends(serve: Serve) -> None:
    stack = serve()
    fields = b"id=late&from=%2B254711000001&to=20880&text=Hi"
    head = (
        f"POST /sms/twoway?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(fields)}\r\n\r\n"
    )
    with caller(stack) as silent, caller(stack) as late:
        silent.sendall(HALF_A_BODY + b"x")
        late.sendall(head.encode() + fields[:9])
        assert slowest_callback(stack, 0.1) < 5
        began = time.monotonic()
        stack.processes["web"].send_signal(signal.SIGTERM)
        time.sleep(1)
        late.sendall(fields[9:])
        assert late.recv(12) == b"HTTP/1.1 200"
        assert stack.processes["web"].wait(60) == 0
    assert time.monotonic() - began < 15
