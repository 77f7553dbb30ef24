"""Every body and every framing that ends early, against the real gunicorn: refused, and nothing is stored."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import func, select

from messaging.storage import tables
from tests.support.databases import empty_database, opened
from tests.support.stack import API_KEY, TOKEN, Stack, eventually

pytestmark = pytest.mark.processes
FORM = "application/x-www-form-urlencoded"
STOP = b"id=cut-1&from=%2B254711000001&to=20880&text=STOP"
CALLBACKS = ["twoway", "delivery-reports", "opt-out", "subscription"]
PART = b'--edge\r\nContent-Disposition: form-data; name="text"\r\n\r\nHello\r\n--edge--\r\n'
BODIES = [
    *((f"/sms/{name}?token={TOKEN}", FORM, STOP) for name in CALLBACKS),
    (f"/sms/twoway?token={TOKEN}", FORM, STOP + b"&more=" + b"x" * 400_000),
    ("/v1/messages", "application/json", b'{"to": "+254711000001", "text": "Hello"}\n\n\n'),
    ("/v1/batches", "application/json", b'{"to": ["+254711000001"], "text": "Hello"}\n\n\n'),
    ("/v1/batches", "multipart/form-data; boundary=edge", PART + b"\r\n\r\n"),
    ("/v1/quote", "multipart/form-data; boundary=edge", PART + b"\r\n\r\n"),
]
MALFORMED = {
    "no size": b"zz\r\nid=cut-1\r\n0\r\n\r\n",
    "no end of chunk": b"30\r\n" + STOP + b"XX0\r\n\r\n",
    "a size and no more": b"0000000000000000030\r\n" + STOP[:9],
    "a size beyond all measure": b"f" * 40 + b"\r\n" + STOP,
    "half a chunk": b"ff\r\n" + STOP,
    "no last chunk": b"%x\r\n%b\r\n" % (len(STOP), STOP),
    "half a last chunk": b"%x\r\n%b\r\n0\r\n" % (len(STOP), STOP),
}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("cut")
    with empty_database("sqlite", folder) as url:
        stack = Stack(folder, url)
        try:
            stack.migrate()
            stack.start("web")
            eventually(lambda: answers(stack), "the web process answers")
            yield stack
        finally:
            stack.close()


TRUE = str(len(STOP) + 2)
LENGTHS = {
    TRUE.zfill(30): 400,
    str(10**30): 413,
    "+5": 400,
    "5, 5": 400,
    "-1": 400,
    "0x30": 400,
    "\u00b2": 400,
    "5\r\nContent-Length: 5": 400,
    "5\r\nTransfer-Encoding: chunked": 400,
    "5\r\nTransfer-Encoding: gzip": 400,
    "5\r\nTransfer-Encoding: xchunked": 501,
}


def answers(stack: Stack) -> bool:
    try:
        return stack.session.get(f"{stack.web_url}/healthz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def status_of(stack: Stack, path: str, kind: str, framing: str, sent: bytes) -> int:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {API_KEY}\r\n"
        f"Content-Type: {kind}\r\n{framing}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", stack.web_port), timeout=20) as line:
        line.sendall(head.encode("latin-1") + sent)
        line.shutdown(socket.SHUT_WR)
        return int(line.recv(65536).split()[1])


def stored(stack: Stack) -> list[int]:
    with opened(stack.environment["DATABASE_URL"]) as database, database.read() as connection:
        kept = (tables.callbacks, tables.messages, tables.batches)
        return [connection.execute(select(func.count()).select_from(one)).scalar_one() for one in kept]


@pytest.mark.parametrize(("path", "kind", "body"), BODIES)
def test_a_body_two_bytes_short_is_refused_and_nothing_is_stored(
    web: Stack, path: str, kind: str, body: bytes
) -> None:
    before = stored(web)
    assert status_of(web, path, kind, f"Content-Length: {len(body)}", body[:-2]) == 400
    assert stored(web) == before


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("path", [f"/sms/twoway?token={TOKEN}", "/v1/messages"])
def test_chunks_that_are_malformed_or_cut_off_are_refused(web: Stack, path: str, name: str) -> None:
    before = stored(web)
    kind = "application/json" if path.startswith("/v1") else FORM
    assert status_of(web, path, kind, "Transfer-Encoding: chunked", MALFORMED[name]) == 400
    assert stored(web) == before


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_is_odd_or_untrue_is_refused_and_ends_no_process(web: Stack, length: str) -> None:
    before = stored(web)
    path, framing = f"/v1/messages?token={TOKEN}", f"Content-Length: {length}"
    assert status_of(web, path, "application/json", framing, STOP) == LENGTHS[length]
    assert stored(web) == before
    assert web.log("web").count("Booting worker") == 1


def test_a_whole_body_in_chunks_is_taken(web: Stack) -> None:
    before = stored(web)
    sent = b"".join(b"1\r\n%c\r\n" % byte for byte in STOP) + b"0\r\nX-Note: x\r\n\r\n"
    assert status_of(web, f"/sms/twoway?token={TOKEN}", FORM, "Transfer-Encoding: chunked", sent) == 200
    assert stored(web)[0] == before[0] + 1


UNREADABLE = {
    "a long line": (b"GET %b?phone=254711000001&api_key=so-secret-a-key&message=%b HTTP/1.1\r\n", 414),
    "a line with spaces": (b"GET %b?message=call 254711000001 at noon HTTP/1.1\r\n", 400),
    "a long header": (b"GET %b HTTP/1.1\r\nX: %b\r\n", 431),
    "no colon": (b"GET %b HTTP/1.1\r\nAuthorization so-secret-a-key\r\n", 400),
    "an odd wish": (b"GET %b HTTP/1.1\r\nHost: x\r\nExpect: 254711000001\r\n", 417),
    "no method": (b"G(254711000001) %b HTTP/1.1\r\n", 400),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("path", [b"/sms/invoke-bulk-sms", b"/v1/messages"])
def test_what_the_server_refuses_is_json_in_the_shape_of_its_caller(
    web: Stack, path: bytes, name: str
) -> None:
    raw, status = UNREADABLE[name]
    sent = (raw % (path, b"a" * 9000)[: raw.count(b"%b")]) + b"\r\n"
    with socket.create_connection(("127.0.0.1", web.web_port), timeout=20) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        head, body = b"".join(iter(lambda: line.recv(65536), b"")).split(b"\r\n\r\n", 1)

    assert int(head.split()[1]) == status
    assert b"Content-Type: application/json" in head
    answer = json.loads(body)
    is_api = path.startswith(b"/v1/") and name != "no method"
    code, sentence = answer["error"].values() if is_api else (answer["code"], answer["error"])
    assert (" " in code, " " in sentence) == (False, True)
    assert "so-secret-a-key" not in web.log("web")
    assert "254711000001" not in web.log("web")
