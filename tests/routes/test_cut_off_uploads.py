"""Uploads whose line breaks or falls silent, against the real gunicorn."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import func, select

from messaging.storage import tables
from tests.support.databases import KINDS, empty_database, opened
from tests.support.stack import API_KEY, Stack, eventually

pytestmark = pytest.mark.processes
IMPATIENT_WEB = """
from routes import uploads
from app import create_app

uploads.SILENCE_SECONDS = 1
"""
HEAD = (
    "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    f"Authorization: Bearer {API_KEY}\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
)
PARTS = (
    '--edge\r\nContent-Disposition: form-data; name="text"\r\n\r\nHello\r\n'
    '--edge\r\nContent-Disposition: form-data; name="file"; filename="people.csv"\r\n\r\nphone\n'
    + "".join(f"+254711{n:06d}\n" for n in range(50_000))
).encode()
END = b"\r\n--edge--\r\n"


@pytest.fixture(params=KINDS)
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    (tmp_path / "impatient.py").write_text(IMPATIENT_WEB)
    with empty_database(request.param, tmp_path) as url:
        stack = Stack(tmp_path, url, {"WEB_THREADS": "8"})
        address = f"127.0.0.1:{stack.web_port}"
        try:
            stack.migrate()
            app = ["--pythonpath", str(tmp_path), "impatient:create_app()"]
            stack.start("web", ["gunicorn", "--workers", "1", "--bind", address, *app])
            eventually(lambda: answers(stack), "the web process answers")
            yield stack
        finally:
            stack.close()


def answers(stack: Stack) -> bool:
    try:
        return stack.session.get(f"{stack.web_url}/healthz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def begin(stack: Stack, sent: bytes, length: int | None = None) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", stack.web_port), timeout=30)
    size = f"Content-Length: {len(PARTS) + len(END) if length is None else length}\r\n\r\n"
    line.sendall(HEAD.encode() + size.encode() + sent)
    return line


def upload(stack: Stack) -> int:
    answer = stack.session.post(
        f"{stack.web_url}/v1/batches",
        data={"text": "Hello"},
        files={"file": ("people.csv", b"phone\n+254711000001\n")},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=30,
    )
    return answer.status_code


def counts(stack: Stack) -> list[int]:
    with opened(stack.environment["DATABASE_URL"]) as database, database.read() as connection:
        all_tables = (tables.batches, tables.messages, tables.upload_pieces)
        return [connection.execute(select(func.count()).select_from(one)).scalar_one() for one in all_tables]


def test_an_upload_that_is_cut_off_leaves_nothing(web: Stack) -> None:
    for sent in (PARTS[: len(PARTS) // 2], PARTS, PARTS + END[:-4]):
        with begin(web, sent) as line:
            line.shutdown(socket.SHUT_WR)
            assert line.recv(12) == b"HTTP/1.1 400"
    # It claims to be whole, and only its last line is missing.
    with begin(web, PARTS, len(PARTS)) as line:
        assert line.recv(12) == b"HTTP/1.1 400"
    begin(web, PARTS[: len(PARTS) // 2]).close()
    assert counts(web) == [0, 0, 0]
    eventually(lambda: upload(web) == 202, "the places are free again")
    assert counts(web) == [1, 0, 1]


def test_an_upload_that_falls_silent_gives_its_place_back(web: Stack) -> None:
    with begin(web, PARTS[:100_000]), begin(web, PARTS[:100_000]):
        eventually(lambda: upload(web) == 202, "a silent caller is given up")
    assert counts(web) == [1, 0, 1]
    assert "Traceback" not in web.log("web")
