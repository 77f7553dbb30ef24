"""Bodies whose line closes before their end, against the real gunicorn: no body, and never a 200."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.databases import KINDS, empty_database
from tests.support.stack import API_KEY, TOKEN, Stack, eventually

pytestmark = pytest.mark.processes
ANN = "+254711000001"
STOP = {"from": ANN, "to": "20880", "id": "in-1", "text": "STOP"}
CALLBACKS = {
    "twoway": STOP,
    "delivery-reports": {"id": "ATXid_1", "phoneNumber": ANN, "status": "Success"},
    "opt-out": {"senderId": "20880", "phoneNumber": ANN},
    "subscription": {"phoneNumber": ANN, "shortCode": "20880", "updateType": "addition"},
}
FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = f"Content-Type: application/json\r\nAuthorization: Bearer {API_KEY}"
MESSAGE = b'{"to": "+254711000001", "text": "Hello"}'


@pytest.fixture(params=KINDS)
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with empty_database(request.param, tmp_path) as url:
        stack = Stack(tmp_path, url, {"WEB_CONCURRENCY": "1"})
        try:
            stack.migrate()
            stack.start("web")
            eventually(lambda: stack._answers(f"{stack.web_url}/healthz"), "the web process answers")
            yield stack
        finally:
            stack.close()


def post_and_close(stack: Stack, path: str, headers: str, body: bytes) -> bytes:
    """The first line of the answer; the caller has said that nothing more will come."""
    with socket.create_connection(("127.0.0.1", stack.web_port), timeout=30) as line:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{stack.web_port}\r\n{headers}\r\n\r\n"
        line.sendall(head.encode() + body)
        line.shutdown(socket.SHUT_WR)
        return line.makefile("rb").readline()


def journal(stack: Stack) -> list[str]:
    return [one["outcome"] for one in stack.get("/v1/callbacks").json()["items"]]


def test_a_callback_cut_short_is_not_stored_and_its_repeat_counts(web: Stack) -> None:
    for name, fields in CALLBACKS.items():
        body, path = urlencode(fields).encode(), f"/sms/{name}?token={TOKEN}"
        cut = post_and_close(web, path, f"{FORM}\r\nContent-Length: {len(body)}", body[:-2])
        assert b" 400 " in cut, name
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        for broken in (chunk, chunk[:-9], b"zz\r\n" + body):
            answer = post_and_close(web, path, f"{FORM}\r\nTransfer-Encoding: chunked", broken)
            assert b" 400 " in answer, (name, broken)
    assert journal(web) == []
    for name, fields in CALLBACKS.items():
        assert web.callback(f"/sms/{name}", fields).status_code == 200
    assert len(journal(web)) == len(CALLBACKS)
    assert web.get("/v1/opt-outs").json()["items"]
    assert "Traceback" not in web.log("web")


def test_a_send_cut_short_is_not_taken_though_its_json_is_whole(web: Stack) -> None:
    cut = post_and_close(web, "/v1/messages", f"{JSON}\r\nContent-Length: {len(MESSAGE) + 5}", MESSAGE)
    assert b" 400 " in cut
    chunk = b"%x\r\n%s\r\n" % (len(MESSAGE), MESSAGE)
    assert b" 400 " in post_and_close(web, "/v1/messages", f"{JSON}\r\nTransfer-Encoding: chunked", chunk)
    assert web.get("/v1/messages").json()["items"] == []
    whole = post_and_close(web, "/v1/messages", f"{JSON}\r\nTransfer-Encoding: chunked", chunk + b"0\r\n\r\n")
    assert b" 202 " in whole
    assert len(web.get("/v1/messages").json()["items"]) == 1
