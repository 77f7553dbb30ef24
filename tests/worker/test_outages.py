"""Seven seconds without PostgreSQL wrote 317 lines and 277 tracebacks."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError

from messaging.operations import outages
from messaging.operations.outages import DATABASE, QUEUE, QUIET_SECONDS, Outages
from messaging.storage.database import Database
from tests.support.databases import empty_database
from tests.support.postgresql_proxy import PostgresqlProxy
from tests.support.stack import Stack, eventually
from utils.logs import configure_logging


def record(error: Exception) -> logging.LogRecord:
    return logging.LogRecord(
        "worker", logging.WARNING, "", 0, "nothing is sent", (), (type(error), error, None)
    )


def test_of_an_outage_one_line_is_kept_without_its_traceback() -> None:
    outages = Outages()
    lost = OperationalError("SELECT 1", {}, Exception("connection refused"))
    first = record(lost)
    assert outages.filter(first)
    assert (first.getMessage(), first.exc_info) == ("the database cannot be used: an outage begins", None)
    assert [outages.filter(record(lost)) for _ in range(3)] == [False] * 3
    assert (outages.is_on(DATABASE), outages.is_on(QUEUE)) == (True, False)


def test_an_error_that_is_no_outage_keeps_its_traceback() -> None:
    outages = Outages()
    broken = sqlite3.OperationalError("no such table: messages")
    broken.sqlite_errorcode = sqlite3.SQLITE_ERROR
    for error in (
        IntegrityError("INSERT", {}, Exception("duplicate")),
        OperationalError("SELECT 1 FROM messages", {}, broken),
        ValueError("ours"),
    ):
        kept = record(error)
        assert outages.filter(kept)
        assert kept.exc_info is not None
    assert not outages.is_on(DATABASE)


def test_an_outage_ends_once_nothing_fails_any_more(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    caplog.set_level(logging.INFO)
    outages.filter(record(OperationalError("SELECT 1", {}, Exception("gone"))))
    outages.end(DATABASE)
    assert outages.is_on(DATABASE)  # another thread may hold a dead connection still
    time.sleep(QUIET_SECONDS + 0.1)
    outages.end(DATABASE)
    outages.end(DATABASE)
    assert [one.getMessage() for one in caplog.records] == [
        "the database can be used again: the outage is over"
    ]


def test_where_writes_fail_a_read_ends_no_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk: each read said that the outage is over, and each write began another one."""
    monkeypatch.setattr(outages, "QUIET_SECONDS", 0.0)
    configure_logging("INFO")
    outages.watch(database)

    def read() -> None:
        with database.read() as connection:
            connection.execute(select(1))

    def write() -> None:
        with database.write() as connection:
            connection.execute(select(1))
            raise OperationalError("INSERT", {}, Exception("disk is full"))

    for _ in range(3):
        try:
            write()
        except OperationalError:
            logging.getLogger("web").exception("nothing was stored")
        read()
    assert capsys.readouterr().err.count("an outage begins") == 1
    with database.write() as connection:
        connection.execute(select(1))
    assert capsys.readouterr().err == ""
    read()
    assert "the outage is over" in capsys.readouterr().err


@pytest.mark.services
@pytest.mark.processes
def test_a_worker_writes_a_line_when_postgresql_goes_and_one_when_it_is_back(tmp_path: Path) -> None:
    with empty_database("postgresql", tmp_path) as url, PostgresqlProxy(url) as proxy:
        stack = Stack(tmp_path, proxy.url)
        try:
            stack.migrate()
            stack.start("worker")
            eventually(lambda: said(stack, "the worker starts"), "it starts")
            proxy.is_away = True
            eventually(lambda: said(stack, "the database cannot be used"), "it is noticed")
            time.sleep(3)
            proxy.is_away = False
            eventually(lambda: said(stack, "the database can be used again"), "it is back")
            eventually(lambda: said(stack, "the task queue can be used again"), "the queue, too")
            assert stack.stop("worker") == 0
        finally:
            stack.close()
        told = said(stack, "")
    assert [one["message"] for one in told if "exception" in one] == []
    assert len(told) <= 10, [one["message"] for one in told]
    assert told[-1]["message"] == "the worker has stopped"


def said(stack: Stack, words: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stack.log("worker").splitlines() if line.startswith("{")]
    return [line for line in lines if words in line["message"]]
