"""A running stack with its books open, and what the tests of single crashes do to it."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Row, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.crash.settling import wait_for_rest
from tests.support.databases import empty_database, opened
from tests.support.stack import Stack, eventually
from tests.support.stopping import state_of

FREEZER = "tests.crash.freezing"
SESSIONS = text(
    "SELECT pid, state, wait_event, now() - xact_start AS age, pg_blocking_pids(pid), query FROM pg_stat_activity"
    " WHERE datname = current_database()"
)


@dataclass
class Scene:
    stack: Stack
    database: Database

    def freeze_worker(self, point: str, name: str = "frozen") -> Path:
        """Starts a worker that stops at `point`; the file that will say so.

        It has one thread and a queue of its own: SQLite's queue file would be locked, were it stopped in there.
        """
        marker = self._new_marker(point)
        queue = f"sqlite:///{self.stack.folder / name}-queue.db"
        settings = {"WORKER_CONCURRENCY": "1", "QUEUE_URL": queue}
        self.stack.start(name, [FREEZER, point, str(marker)], settings)
        return marker

    def _new_marker(self, point: str) -> Path:
        return self.stack.folder / f"{point}-{secrets.token_hex(4)}"

    def freeze_web(self, point: str) -> Path:
        """The same with the web process, in place of the one that runs."""
        marker = self._new_marker(point)
        command = self.stack.commands()["web"]
        command[-1] = f"{FREEZER}:create_app({point!r}, {str(marker)!r})"
        self.stack.kill("web")
        self.stack.start("web", command)
        self.wait_for_web()
        return marker

    def wait_for_web(self) -> None:
        eventually(lambda: self._is_alive(), "the web process answers")

    def _is_alive(self) -> bool:
        try:
            return requests.get(f"{self.stack.web_url}/healthz", timeout=5).ok
        except requests.RequestException:
            return False

    def expire_leases(self, untouched_for: timedelta = timedelta(0)) -> None:
        """Time runs forward for the attempts of the dead: a lease is a minute and the POST's deadline.

        Only for those on which nobody works any more. The campaign of many kills really waits.
        """
        with self.database.write() as connection:
            now = wall_clock(connection)
            last_touched = func.coalesce(tables.attempts.c.posting_at, tables.attempts.c.claimed_at)
            dead = (tables.OPEN, last_touched <= now - untouched_for)
            past = now - timedelta(seconds=1)
            connection.execute(update(tables.attempts).where(*dead).values(lease_until=past))

    def end_workers(self) -> None:
        for name, process in self.stack.processes.items():
            if name not in ("web", "simulator") and process.poll() is None:
                self.stack.kill(name)

    def restart_worker(self) -> None:
        """A worker sweeps when it starts."""
        if "worker" in self.stack.processes and self.stack.processes["worker"].poll() is None:
            self.stack.stop("worker")
        self.stack.start("worker")

    def wait_for_rest(self, seconds: float = 60) -> None:
        """A worker must run; it may be restarted to sweep."""
        open_now = wait_for_rest(self.stack, self.database, seconds)
        assert not open_now, f"never came to rest: {open_now}"

    def send(self, to: str | list[str], text: str, **more: Any) -> list[int]:
        answer = self.stack.post("/v1/messages", {"to": to, "text": text, **more})
        assert answer.status_code == 202, answer.text
        return [one["id"] for one in answer.json()["messages"]]

    def describe(self) -> str:
        """For a test that failed: what is open, the newest rows, who waits for whom, and the ends of the logs."""
        try:
            rows = self._describe_rows()
        except SQLAlchemyError as error:
            # A test may have stopped its server; an error from here would end the whole run.
            rows = [f"no rows: {error}"]
        running = [f"{name}: exit code {process.poll()}" for name, process in self.stack.processes.items()]
        logs = [
            f"{path.name}: …{path.read_text()[-2000:]}"
            # What the worker says tells most, and a long report may be cut off.
            for path in sorted(self.stack.folder.glob("*.log"), reverse=True)
        ]
        return "\n".join([*rows, *running, *logs])

    def _describe_rows(self) -> list[str]:
        looks = [
            select(tables.attempts).where(tables.OPEN).order_by(tables.attempts.c.id).limit(4),
            select(tables.recoveries).order_by(tables.recoveries.c.id.desc()).limit(4),
            *(
                select(table).order_by(table.c.id.desc()).limit(4)
                for table in (tables.attempts, tables.messages)
            ),
        ]
        with self.database.read() as connection:
            rows = [str(row) for statement in looks for row in connection.execute(statement)]
            if not self.database.is_sqlite:
                rows += [str(row) for row in connection.execute(SESSIONS)]
        return rows

    def statuses_of(self, text: str) -> list[str]:
        return [one["status"] for one in self._messages(text)]

    def histories_of(self, text: str) -> list[list[tuple[str, str]]]:
        """Each message's (status, source) pairs."""
        found = [self.stack.message(one["id"]) for one in self._messages(text)]
        return [[(step["status"], step["source"]) for step in one["history"]] for one in found]

    def _messages(self, text: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.stack.get("/v1/messages", q=text).json()["items"]
        return [one for one in items if one["text"] == text]

    def received(self, text: str) -> list[str]:
        """The phones that got it, each as often as it did."""
        return sorted(item["to"] for item in self.stack.ledger() if item["text"] == text)

    def attempts_of(self, text: str) -> list[Row[Any]]:
        """Every POST that was prepared since the first message with this text, oldest first."""
        with self.database.read() as connection:
            since = (
                select(func.min(tables.messages.c.created_at))
                .where(tables.messages.c.text == text)
                .scalar_subquery()
            )
            found = (
                select(tables.attempts)
                .where(tables.attempts.c.claimed_at >= since)
                .order_by(tables.attempts.c.id)
            )
            return list(connection.execute(found))

    def count_by_status(self) -> Counter[str]:
        with self.database.read() as connection:
            found = connection.execute(
                select(tables.messages.c.status, func.count()).group_by(tables.messages.c.status)
            )
            return Counter({row.status: row.count for row in found})

    def once_unknown(self) -> set[str]:
        """The phones of messages that were ever unknown."""
        unknown = tables.message_events.c.status == "unknown"
        with self.database.read() as connection:
            found = select(tables.messages.c.recipient).join(tables.message_events).where(unknown)
            return set(connection.execute(found).scalars())

    def proceed(self, process_id: int) -> None:
        os.kill(process_id, signal.SIGCONT)

    def assert_audit_is_clean(self) -> None:
        assert self.stack.get("/v1/audit").json()["problems"] == []


@contextmanager
def scene(
    kind: str, folder: Path, settings: dict[str, str] | None = None, database_url: str | None = None
) -> Iterator[Scene]:
    """Simulator and web; a worker only where a test starts it. `database_url`: in place of an empty one of `kind`."""
    if database_url is None:
        with empty_database(kind, folder) as url, scene(kind, folder, settings, url) as found:
            yield found
        return
    with opened(database_url) as database:
        stack = Stack(folder, database_url, {"WEB_CONCURRENCY": "1"} | (settings or {}))
        try:
            stack.migrate()
            for name in ("simulator", "web"):
                stack.start(name)
            found = Scene(stack, database)
            found.wait_for_web()
            yield found
        finally:
            stack.close()


def reach(marker: Path, seconds: float = 30) -> int:
    """Waits until the point is reached; the id of the stopped process."""
    eventually(lambda: marker.exists() and marker.read_text(), f"{marker.name} is reached", seconds)
    process_id = int(marker.read_text())
    eventually(lambda: state_of(process_id) in "TX", "the process stands still")
    return process_id


def processes_of(stack: Stack, name: str) -> list[int]:
    """The ids of a process that the test started and of its children."""
    group = stack.processes[name].pid
    numbers = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
    return [number for number in numbers if _group_of(number) == group]


def _group_of(process_id: int) -> int | None:
    try:
        return os.getpgid(process_id)
    except ProcessLookupError:
        return None


def linger(seconds: float) -> None:
    """For what must not happen: there is no event to wait for."""
    time.sleep(seconds)


needs_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
