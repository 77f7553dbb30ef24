"""The promises about one inbound id and one loop hold between processes, where no lock of ours is shared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from messaging.callbacks.received import apply_received
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import add_accepted, all_rows, inbound, message, report
from utils.settings import Settings

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 60
# Waits for a line, then gives each body of its arguments to an inbox, all at the same moment.
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from messaging.storage.database import Database
from messaging.callbacks.receive import CallbackReceiver
from utils.settings import Settings

settings = Settings(database_url=sys.argv[1])
inbox = CallbackReceiver(Database(settings.sqlalchemy_url), settings)
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda body: inbox.receive(sys.argv[2], body.encode()), sys.argv[3:]))
inbox.stop()
"""


def post_from_two_processes(url: str, kind: str, first: list[bytes], second: list[bytes]) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, kind, *(body.decode() for body in bodies)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for bodies in (first, second)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert [process.wait(TIMEOUT_SECONDS) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_one_inbound_id_posted_to_two_processes_gets_one_reply(database_url: str, database: Database) -> None:
    equal = [inbound("hello", "in-1")] * 5
    others = [inbound(f"hello {number}", "in-1") for number in range(5)]
    post_from_two_processes(database_url, "inbound", [*equal, *others], [*others, *equal])
    assert len(all_rows(database, tables.inbound_messages)) == 1
    assert len(all_rows(database, tables.messages)) == 1
    assert sum(row.count for row in all_rows(database, tables.callbacks)) == 20


def test_a_loop_over_two_processes_is_held(database_url: str, database: Database) -> None:
    bodies = [inbound("ping", f"in-{number}") for number in range(16)]
    post_from_two_processes(database_url, "inbound", bodies[:8], bodies[8:])
    outcomes = [row.reply_outcome for row in all_rows(database, tables.inbound_messages)]
    assert sorted(outcomes) == ["held"] * 11 + ["queued"] * 5


def test_reports_of_the_same_messages_over_two_processes_all_count(
    database_url: str, database: Database, settings: Settings
) -> None:
    ids = [add_accepted(database, f"id-{number}") for number in range(10)]
    first = [report(f"id-{number}", "Sent") for number in range(10)]
    second = [report(f"id-{number}") for number in reversed(range(10))]
    post_from_two_processes(database_url, "report", [*first, *second], [*second, *first])
    assert {message(database, one).status for one in ids} == {"accepted"}
    assert apply_received(database, settings) == 20
    assert [message(database, one).status for one in ids] == ["delivered"] * 10
    assert len(all_rows(database, tables.delivery_reports)) == 20
    assert {(row.count, row.outcome) for row in all_rows(database, tables.callbacks)} == {(2, "applied")}
