"""What is left on the account at Africa's Talking: asked at most once a minute by each process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from messaging.storage import counters
from messaging.storage.clocks import utc_now, wall_clock
from messaging.storage.database import Database
from utils.errors import ProviderError
from utils.json_shapes import booked_money, rfc3339
from utils.money import Money

# Of `counters`, by currency.
BALANCE, BALANCE_AT = "balance:", "balance_at:"
KEPT_SECONDS = 60.0
DEADLINE_SECONDS = 10.0


logger = logging.getLogger(__name__)


class AsksBalance(Protocol):
    def fetch_balance(self, *, deadline_seconds: float | None = None) -> Money: ...


class Balance:
    """Threads that ask together share one question, and its failure: else each would wait for the deadline in turn."""

    def __init__(self, provider: AsksBalance, keep: Callable[[Money], None] | None = None) -> None:
        """`keep`: told of each answer."""
        self._provider = provider
        self._keep = keep
        self._lock = threading.Lock()
        self._kept: tuple[Money, datetime] | None = None
        self._asked_at = 0.0
        self._failure: tuple[ProviderError, float] | None = None

    def read(self) -> dict[str, Any]:
        """In the shape of `GET /v1/balance`. Raises a ProviderError, `not_sent`."""
        began_at = time.monotonic()
        with self._lock:
            self._raise_failure_since(began_at)
            return _in_json(*self._ask())

    def glance(self) -> dict[str, Any] | None:
        """As `read`; None where it is not known. For a page: where the provider hangs, one thread waits in a minute.

        All that asked would else wait one behind the other, until no thread is left for callbacks.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._raise_failure_since(time.monotonic() - KEPT_SECONDS)
            return _in_json(*self._ask())
        except ProviderError:
            return None
        finally:
            self._lock.release()

    def _raise_failure_since(self, moment: float) -> None:
        if self._failure is not None and self._failure[1] >= moment:
            raise self._failure[0].with_traceback(None)

    def _ask(self) -> tuple[Money, datetime]:
        if self._kept is None or time.monotonic() - self._asked_at > KEPT_SECONDS:
            try:
                money = self._provider.fetch_balance(deadline_seconds=DEADLINE_SECONDS)
            except ProviderError as error:
                self._failure = error, time.monotonic()
                raise
            self._kept, self._asked_at = (money, utc_now()), time.monotonic()
            self._failure = None
            if self._keep is not None:
                self._keep(money)
        return self._kept


def keep(database: Database, money: Money) -> None:
    """For `/metrics`, which asks nobody. Where it cannot be written, the next answer is."""
    try:
        with database.write() as connection:
            write_down(connection, money, wall_clock(connection))
    except SQLAlchemyError:
        logger.warning("the balance is not kept", exc_info=True)


def write_down(connection: Connection, money: Money, now: datetime) -> None:
    counters.put(connection, f"{BALANCE}{money.currency}", money.micros)
    counters.put(connection, f"{BALANCE_AT}{money.currency}", int(now.timestamp()))


def _in_json(money: Money, at: datetime) -> dict[str, Any]:
    return {"balance": booked_money(money.micros, money.currency), "at": rfc3339(at)}
