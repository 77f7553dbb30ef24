"""What the tests of the delivery core share: rows put in and looked at, the steps of one POST, a clock to move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Table, func, insert, select, update

from messaging.consent import ledger
from messaging.messages.queue import BATCH_PRIORITY, NewMessage, enqueue
from messaging.operations import sweep
from messaging.sending import claim as claims
from messaging.sending import last_check, start_post
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.rate_limit import Rates
from messaging.sending.sender import ask_provider, write_outcome
from messaging.sending.start_post import Posting
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids
from utils.errors import ProviderError
from utils.provider_answers import SendAnswer
from utils.settings import Settings
from utils.sms_utils import ProviderClient

LEASE = timedelta(seconds=120)
UNHURRIED = Rates(100_000, 10_000_000)
WORKER = "a-worker"


def phone(number: int) -> str:
    """A Kenyan number that none of the simulator's last digits gives a fate."""
    return f"+2547{number:06d}77"


def phones(count: int, first: int = 1) -> list[str]:
    return [phone(number) for number in range(first, first + count)]


def live_settings(database_url: str, provider_url: str, **overrides: object) -> Settings:
    """An account of its own on a stand-in for AT, with a rates that holds nobody up."""
    given: dict[str, object] = {
        "at_username": "sandbox",
        "at_api_key": "provider-key",
        "at_base_url": provider_url,
        "at_timeout_seconds": 10,
        "at_max_requests_per_second": 100_000,
        "at_max_messages_per_second": 1_000_000,
        "api_keys": ("key",),
        "webhook_tokens": ("token",),
        "database_url": database_url,
    }
    return Settings.model_validate(given | overrides)


def queue(database: Database, *recipients: str, text: str = "Hello", **values: Any) -> list[int]:
    new = [NewMessage(recipient, text, **values) for recipient in recipients]
    with database.write() as connection:
        return list(enqueue(connection, new))


def new_batch(database: Database, total: int = 0, **values: Any) -> int:
    with database.write() as connection:
        batch_id = reserve_ids(connection, tables.batches, 1)[0]
        row = {"id": batch_id, "status": "sending", "total": total, "created_at": wall_clock(connection)}
        connection.execute(insert(tables.batches).values(**(row | values)))
        return batch_id


def queue_batch(database: Database, recipients: Iterable[str], text: str = "Bulk", **values: Any) -> int:
    wanted = list(recipients)
    batch_id = new_batch(database, len(wanted), sender_id=values.get("sender_id"))
    queue(database, *wanted, text=text, batch_id=batch_id, priority=BATCH_PRIORITY, **values)
    return batch_id


def claim(
    database: Database,
    *,
    recipients: int = 500,
    posts: int = claims.MOST_POSTS,
    lease: timedelta = LEASE,
) -> list[Claim]:
    return claim_as(database, WORKER, ClaimLimits(recipients, lease, posts))


def claim_as(
    database: Database, worker: str, limits: ClaimLimits, *, urgent_only: bool = False
) -> list[Claim]:
    """Only claimed, as where the rates holds the first one up."""
    with database.write() as connection:
        now = wall_clock(connection)
        return claims.take(connection, worker, limits, now, urgent_only=urgent_only).claims


def claim_one(database: Database, **limits: Any) -> Claim:
    (only,) = claim(database, **limits)
    return only


def begin(
    database: Database, one: Claim, rates: Rates = UNHURRIED, lease: timedelta = LEASE
) -> start_post.Posting | start_post.Wait | last_check.Released:
    return start_post.begin_posting(database, one, rates, lease)


def begin_posting(database: Database, one: Claim, lease: timedelta = LEASE) -> start_post.Posting:
    turn = begin(database, one, lease=lease)
    # As a lane does: on a busy machine what was asked over a second ago is asked again.
    while isinstance(turn, start_post.Wait):
        time.sleep(turn.seconds)
        turn = begin(database, one, lease=lease)
    assert isinstance(turn, start_post.Posting)
    return turn


def post_to(database: Database, *recipients: str, **values: Any) -> start_post.Posting:
    """Queued, claimed and marked `posting`: what a worker holds while the bytes are on their way."""
    queue(database, *recipients, **values)
    return begin_posting(database, claim_one(database))


def message(database: Database, message_id: int) -> Row[Any]:
    return only(database, tables.messages, tables.messages.c.id == message_id)


def message_to(database: Database, recipient: str) -> Row[Any]:
    return only(database, tables.messages, tables.messages.c.recipient == recipient)


def attempt(database: Database, attempt_id: int) -> Row[Any]:
    return only(database, tables.attempts, tables.attempts.c.id == attempt_id)


def only(database: Database, table: Table, *conditions: Any) -> Row[Any]:
    with database.read() as connection:
        return connection.execute(select(table).where(*conditions)).one()


def every(database: Database, table: Table) -> list[Row[Any]]:
    with database.read() as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key.columns)))


def count(database: Database, table: Table, *conditions: Any) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()


def statuses_of(database: Database) -> list[str]:
    return [row.status for row in every(database, tables.messages)]


def history(database: Database, message_id: int) -> list[tuple[str, str]]:
    """Status and source of each event, in order."""
    with database.read() as connection:
        rows = connection.execute(
            select(tables.message_events.c.status, tables.message_events.c.source)
            .where(tables.message_events.c.message_id == message_id)
            .order_by(tables.message_events.c.id)
        )
        return [(row.status, row.source) for row in rows]


def change(database: Database, table: Table, row_id: int, **values: Any) -> None:
    """By force, as no rule of ours would."""
    with database.write() as connection:
        connection.execute(update(table).where(table.c.id == row_id).values(**values))


def know_price(database: Database, micros: int = 800_000, currency: str = "KES") -> None:
    """What a text to Kenya last cost, from a sender that the tests do not use."""
    row = {"sender_id": "ANOTHER", "prefix": "+254711", "country": "KE", "currency": currency}
    with database.write() as connection:
        priced = row | {"micros_per_part": micros, "seen_at": wall_clock(connection)}
        connection.execute(insert(tables.prices).values(**priced))


def opt_out(database: Database, recipient: str, sender_id: str | None = None, scope: str = "all") -> None:
    with database.write() as connection:
        ledger.record_stop(connection, recipient, scope, sender_id, ledger.KEYWORD)


def in_write(database: Database, work: Callable[[Connection, datetime], Any]) -> Any:
    with database.write() as connection:
        return work(connection, wall_clock(connection))


def sweep_leases(database: Database) -> tuple[int, int]:
    return sweep.sweep_expired_leases(database)


class Clock:
    """The clocks of one `Database` object, which a test may move."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wall_shift = self._boot_shift = timedelta()
        self._wall, self._boot = database.clocks.wall, database.clocks.boot
        database.clocks.wall = lambda connection: self._wall(connection) + self._wall_shift
        database.clocks.boot = lambda: self._boot() + self._boot_shift.total_seconds()

    def step(self, **duration: float) -> None:
        """So much time passes."""
        self._wall_shift += timedelta(**duration)
        self._boot_shift += timedelta(**duration)

    def set_wall(self, **duration: float) -> None:
        """Somebody sets the wall clock, after this machine was seen once; no time passes."""
        self.look()
        self._wall_shift += timedelta(**duration)

    def look(self) -> None:
        """As each heartbeat does."""
        with self._database.write() as connection:
            self._database.clocks.look(connection)


def post(
    database: Database, provider: ProviderClient, posting: Posting, deadline_seconds: float
) -> SendAnswer | ProviderError:
    """The POST and its record, as a lane does them."""
    outcome = ask_provider(provider, posting, deadline_seconds)
    write_outcome(database, posting, outcome)
    return outcome
