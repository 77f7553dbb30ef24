"""The worker's side of reply handlers: a waiting text is claimed, given to its handler, and answered once.

The inbound row is the job. A claim moves `reply_due_at` behind a lease and counts a try; the handler runs
outside any transaction, in a thread of its own; its texts and the row's outcome are one transaction, fenced
by the number of the try. A handler that hangs, or whose worker dies, loses its lease, and the text is due
again. So a handler may run more than once, but only one run has effect here.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.exc import SQLAlchemyError

from messaging.conversations import replies
from messaging.conversations.handlers import Attempt, Handlers, Inbound, explain, handlers_in
from messaging.conversations.receive import reply_by_template
from messaging.conversations.replies import Outcome, Reply
from messaging.storage import rollback, tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from messaging.storage.retrying import with_retries
from utils.errors import Recovering
from utils.settings import Settings
from utils.texts import as_text

AT_ONCE = 8
# Threads of handlers that hang cannot be ended, only left: with so many of them this worker takes no more.
MOST_HANGING = 100
LOOK_SECONDS = 0.5
LAST_WORDS_SECONDS = 10.0
# Before the second try, the third …; a text that failed after the last stays, and is shown, as failed.
WAITS = tuple(timedelta(seconds=seconds) for seconds in (2, 15, 60, 300))
MOST_TRIES = len(WAITS) + 1
# A handler that hung over one text twice will do so again, and each time costs a thread.
MOST_LOST_TRIES = 2
NO_ANSWER = "the handler gave no answer in time, or its worker died"
LONGEST_ERROR = 300

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One try to answer one text. `number` of the try is the fence: a later claim has a higher one."""

    row: Row[Any]
    number: int

    @property
    def id(self) -> int:
        return int(self.row.id)


def claim(database: Database, lease: timedelta, limit: int) -> list[Job]:
    """Takes texts that are due; one that has had all its tries is marked as failed instead."""
    with database.read() as connection:
        if connection.execute(_due(_steady_now(connection)).limit(1)).first() is None:
            return []
    with database.write() as connection:
        rollback.require(connection, wall_clock(connection))
        now = _steady_now(connection)
        rows = connection.execute(_due(now).limit(limit).with_for_update(skip_locked=True)).all()
        replies.note(connection, [_failed(row.id, NO_ANSWER) for row in rows if _is_spent(row)])
        jobs = [Job(row, row.reply_tries + 1) for row in rows if not _is_spent(row)]
        if jobs:
            connection.execute(
                update(tables.inbound_messages)
                .where(tables.inbound_messages.c.id.in_([job.id for job in jobs]))
                .values(
                    reply_due_at=now + lease,
                    reply_tries=tables.inbound_messages.c.reply_tries + 1,
                    reply_error=None,
                )
            )
        return jobs


def _is_spent(row: Row[Any]) -> bool:
    """A try that ended left its error; one that lost its lease left none."""
    was_lost = row.reply_tries > 0 and row.reply_error is None
    return int(row.reply_tries) >= (MOST_LOST_TRIES if was_lost else MOST_TRIES)


def _due(now: datetime) -> Any:
    due = (tables.WAITING, tables.inbound_messages.c.reply_due_at <= now)
    return select(tables.inbound_messages).where(*due).order_by(tables.inbound_messages.c.reply_due_at)


def answer(settings: Settings, database: Database, job: Job) -> None:
    """Runs the handler and records what came of it, unless the claim was lost meanwhile."""
    path = Path(settings.replies_file)
    texts: tuple[str, ...] = ()
    with Attempt() as attempt:
        texts = _texts(settings, handlers_in(path), job.row)
    if attempt.error is None:
        with_retries(partial(_record, settings, database, job, texts))
        return
    # Without its words, which may quote a number or a text; the row keeps them.
    note = {"inbound_id": job.id, "try": job.number, "error": type(attempt.error).__name__}
    logger.warning("a reply handler failed", extra=note)
    with_retries(partial(_record_failure, database, job, explain(attempt.error, path)))


def _texts(settings: Settings, handlers: Handlers, row: Row[Any]) -> tuple[str, ...]:
    if not handlers.want(row.text):
        # The handlers changed since the text came.
        if row.possible_opt_out:
            return ()
        return tuple(text for text in [reply_by_template(settings, row.text)] if text.strip())
    keyword, rest = handlers.read(row.text)
    return handlers.answer(
        Inbound(
            row.id,
            row.sender,
            row.recipient,
            row.text,
            keyword,
            rest,
            row.received_at,
            row.link_id,
            row.network,
        )
    )


def _record(settings: Settings, database: Database, job: Job, texts: tuple[str, ...]) -> None:
    row = job.row
    with database.write() as connection:
        rollback.require(connection, wall_clock(connection))
        if _is_ours(connection, job):
            reply = Reply(row.id, row.sender, row.recipient, texts, row.link_id)
            replies.note(connection, replies.send(settings, connection, [reply]))


def _record_failure(database: Database, job: Job, error: str) -> None:
    with database.write() as connection:
        if not _is_ours(connection, job):
            return
        if job.number >= MOST_TRIES:
            replies.note(connection, [_failed(job.id, error)])
            return
        due_at = _steady_now(connection) + WAITS[job.number - 1]
        again = Outcome(job.id, replies.WAITING, due_at, _storable(error))
        replies.note(connection, [again])


def _steady_now(connection: Connection) -> datetime:
    return steady(connection, wall_clock(connection))


def _is_ours(connection: Connection, job: Job) -> bool:
    """Whether no later try has taken the text; until the commit none can."""
    mine = (
        tables.inbound_messages.c.id == job.id,
        tables.WAITING,
        tables.inbound_messages.c.reply_tries == job.number,
    )
    statement = select(tables.inbound_messages.c.id).where(*mine).with_for_update()
    return connection.execute(statement).first() is not None


def _failed(inbound_id: int, error: str) -> Outcome:
    return Outcome(inbound_id, replies.FAILED, error=_storable(error))


def _storable(error: str) -> str:
    return as_text(error)[:LONGEST_ERROR]


class Answerer:
    """Answers texts beside the sending threads, so that neither waits for the other."""

    def __init__(self, settings: Settings, database: Database, stopping: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._lease = timedelta(seconds=settings.reply_timeout_seconds)
        self._work = threading.Event()
        # Each handler's thread with the moment, by the monotonic clock, from which it counts as hanging.
        self._running: dict[threading.Thread, float] = {}

    def nudge(self) -> None:
        """There may be something to do now."""
        self._work.set()

    def run(self) -> None:
        """Until `stopping`; then the handlers that run get a moment to end, and lose their lease otherwise."""
        while not self._stopping.is_set():
            try:
                self._start_due()
            except SQLAlchemyError:
                logger.warning("the database cannot be reached", exc_info=True)
            except Recovering:
                logger.debug("no text is answered during a recovery")
            self._work.wait(LOOK_SECONDS)
            self._work.clear()
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        for thread in list(self._running):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_due(self) -> None:
        free = self._free()
        for job in claim(self._database, self._lease, free) if free > 0 else ():
            # A daemon: one that hangs must not keep the worker from ending.
            thread = threading.Thread(target=self._answer, args=(job,), name=f"reply-{job.id}", daemon=True)
            self._running[thread] = time.monotonic() + self._lease.total_seconds()
            thread.start()

    def _free(self) -> int:
        self._running = {thread: until for thread, until in self._running.items() if thread.is_alive()}
        now = time.monotonic()
        hanging = sum(until <= now for until in self._running.values())
        if hanging >= MOST_HANGING:
            logger.error("too many reply handlers hang: restart the worker", extra={"hanging": hanging})
            return 0
        return AT_ONCE - (len(self._running) - hanging)

    def _answer(self, job: Job) -> None:
        try:
            answer(self._settings, self._database, job)
        except SQLAlchemyError:
            logger.warning("an answer could not be recorded; it is tried again", exc_info=True)
        except Recovering:
            logger.debug("its lease ends, and it is answered after the recovery")
        self.nudge()
