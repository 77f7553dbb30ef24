"""Calls that read much: few at a time, and none for a caller who has left."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from flask_openapi.openapi import OpenAPI
from sqlalchemy import text

from messaging.storage.database import Database
from routes.expensive_calls import SLOTS
from tests.routes.conftest import MakeApp
from tests.support import web as web_support
from tests.support.databases import empty_database, opened
from tests.support.stack import API_KEY, Stack, eventually
from tests.support.web import Caller

ALICE = "+254711000001"
LARGE_READS = (
    "/v1/audit",
    "/v1/messages?q=hello",
    "/v1/messages?status=unknown",
    "/v1/batches/1/messages.csv",
    "/v1/batches/1/reasons",
)
WAITING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def free_slots(app: OpenAPI) -> int:
    slots: Any = app.extensions[SLOTS]
    return int(slots._value)


@pytest.mark.parametrize("path", LARGE_READS)
def test_a_large_read_beyond_the_slots_is_told_to_come_again(app: OpenAPI, caller: Caller, path: str) -> None:
    caller.post("/v1/messages", {"to": ALICE, "text": "Hello"})
    slots: Any = app.extensions[SLOTS]
    taken = 0
    while slots.acquire(blocking=False):
        taken += 1
    refused = caller.get(path)
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "busy")  # type: ignore[index]
    assert refused.headers["Retry-After"]
    assert caller.get("/v1/messages").status_code == 200
    slots.release(taken)
    assert caller.get(path).status_code == 200


@pytest.mark.parametrize("path", [*LARGE_READS, "/v1/batches/99/messages.csv", "/v1/batches/99/bill"])
def test_every_slot_is_given_back(app: OpenAPI, caller: Caller, path: str) -> None:
    caller.post("/v1/messages", {"to": ALICE, "text": "Hello"})
    before = free_slots(app)
    client = app.test_client()
    headers = {"Authorization": f"Bearer {web_support.API_KEY}"}
    for method in ("GET", "HEAD"):
        client.open(path, method=method, headers=headers).close()
        assert free_slots(app) == before
    caller.get(path).get_data()
    assert free_slots(app) == before


def test_few_threads_still_leave_a_slot(make_app: MakeApp) -> None:
    assert free_slots(make_app(web_threads=2)) == 1


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Stack, Database]]:
    """PostgreSQL: there a lock on a table makes a read last as long as the test wants."""
    with empty_database("postgresql", tmp_path) as url, opened(url) as database:
        stack = Stack(tmp_path, url, {"WEB_CONCURRENCY": "1", "WEB_THREADS": "16"})
        try:
            stack.migrate()
            stack.start("web")
            eventually(lambda: stack._answers(f"{stack.web_url}/healthz"), "the web process answers")
            yield stack, database
        finally:
            stack.close()


@pytest.mark.processes
def test_two_dozen_callers_of_the_audit_leave_the_callbacks_their_threads(
    web: tuple[Stack, Database],
) -> None:
    stack, database = web
    with database.engine.begin() as connection, ThreadPoolExecutor(24) as callers:
        connection.execute(text("LOCK TABLE batches IN ACCESS EXCLUSIVE MODE"))
        answers = [callers.submit(ask_for_the_audit, stack) for _ in range(24)]
        eventually(lambda: sum(one.done() for one in answers) >= 22, "all but two are refused at once", 10)
        started = time.monotonic()
        answer = stack.callback("/sms/delivery-reports", {"id": "ATXid_1", "status": "Success"})
        assert (answer.status_code, time.monotonic() - started < 5) == (200, True)
        connection.rollback()
        assert Counter(one.result() for one in answers) == {503: 22, 200: 2}


def ask_for_the_audit(stack: Stack) -> int:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    return requests.get(f"{stack.web_url}/v1/audit", headers=headers, timeout=60).status_code


@pytest.mark.processes
def test_a_read_ends_when_its_caller_leaves(web: tuple[Stack, Database]) -> None:
    stack, database = web
    with database.engine.begin() as connection:
        connection.execute(text("LOCK TABLE batches IN ACCESS EXCLUSIVE MODE"))
        line = socket.create_connection(("127.0.0.1", stack.web_port))
        line.sendall(
            f"GET /v1/audit HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\n\r\n".encode()
        )
        eventually(lambda: waiting_reads(database) == 1, "the audit waits for the table")
        line.close()
        eventually(lambda: waiting_reads(database) == 0, "the audit has ended", 10)
    assert ask_for_the_audit(stack) == 200


def waiting_reads(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(WAITING).scalar_one())
