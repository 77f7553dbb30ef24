"""Wrong API keys, counted by address in the database, so for all processes at once; then 429 for a while.

A valid key is let in whatever its address has tried. Many programs share an address (an office, a proxy that
TRUSTED_PROXIES does not name), and one with an old key, or a stranger, must not stop the sends of the others. It costs
nothing to tell: a hash is compared, and a key is too long to be guessed at any rate. What is limited is the noise.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from messaging.access import login_throttle
from messaging.access.login_throttle import TooManyTries
from messaging.storage import counters, tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database

NAME = "refused_keys"
FREE_TRIES = 20
# Mostly one write in so many seconds, of so many addresses: SQLite has one writer at a time. Who has come to his last
# free try is written at once, or other processes would not know.
FLUSH_INTERVAL_SECONDS = 1.0
MOST_AT_ONCE = 200
# Rows, and addresses that a process remembers. Whoever has more addresses than that is not limited, only counted.
MOST_ADDRESSES = 10_000
# One customer's part of the IPv6 space, in which he has more addresses than there are rows.
IPV6_PREFIX = 64
_PREFIX = "key:"
_OURS = tables.login_failures.c.who.startswith(_PREFIX)

logger = logging.getLogger(__name__)


class KeyThrottle:
    """Of one process. It learns of what others have counted when it writes: a second later at most."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._unwritten: Counter[str] = Counter()
        self._unwritten_total = 0
        self._written_at = -FLUSH_INTERVAL_SECONDS
        # Of the database, when it was written to last.
        self._is_away = False
        # Ends by the monotonic clock.
        self._blocked: dict[str, float] = {}

    def count(self, address: str | None) -> None:
        """One wrong key. Raises TooManyTries, which counts nothing: a flood costs no write."""
        who = network_of(address)
        self._require_free(who)
        with self._lock:
            if who in self._unwritten or len(self._unwritten) < MOST_AT_ONCE:
                self._unwritten[who] += 1
            self._unwritten_total += 1
            is_over = self._unwritten[who] >= FREE_TRIES
            is_due = time.monotonic() - self._written_at >= FLUSH_INTERVAL_SECONDS
        if is_due or (is_over and not self._is_away):
            self.flush()
            self._require_free(who)
        elif is_over:
            raise TooManyTries("key", timedelta(seconds=FLUSH_INTERVAL_SECONDS))

    def flush(self) -> None:
        """Writes what is unwritten; keeps it where the database cannot be used now."""
        with self._lock:
            taken, self._unwritten = self._unwritten, Counter()
            total, self._unwritten_total = self._unwritten_total, 0
            self._written_at = time.monotonic()
        if not total:
            return
        try:
            waits = self._write(taken, total)
        except SQLAlchemyError:
            logger.warning("wrong keys stay uncounted for now", extra={"count": total})
            with self._lock:
                # Each failed flush brings back what it took, and others have come meanwhile.
                self._unwritten = Counter(dict((self._unwritten + taken).most_common(MOST_ADDRESSES)))
                self._unwritten_total += total
                self._is_away = True
            return
        self._is_away = False
        self._block(waits)

    def _write(self, failures: Mapping[str, int], total: int) -> dict[str, timedelta]:
        """How long each of them has to wait."""
        with self._database.write() as connection:
            counters.add(connection, NAME, total)
            now = steady(connection, wall_clock(connection))
            if not _has_room(connection) and not _make_room(connection, now):
                return {}
            named = {f"{_PREFIX}{who}": number for who, number in failures.items()}
            ends = login_throttle.count(connection, named, now, FREE_TRIES)
            return {who.removeprefix(_PREFIX): end - now for who, end in ends.items() if end > now}

    def _block(self, waits: Mapping[str, timedelta]) -> None:
        now = time.monotonic()
        with self._lock:
            known = {who: end for who, end in self._blocked.items() if end > now}
            known |= {who: now + wait.total_seconds() for who, wait in waits.items()}
            self._blocked = dict(list(known.items())[-MOST_ADDRESSES:])
        for who, wait in waits.items():
            note = {"address": who, "seconds": round(wait.total_seconds())}
            logger.warning("too many wrong keys from one address", extra=note)

    def _require_free(self, who: str) -> None:
        with self._lock:
            left = self._blocked.get(who, 0.0) - time.monotonic()
        if left > 0:
            raise TooManyTries("key", timedelta(seconds=left))


def network_of(address: str | None) -> str:
    """Whom an address stands for. What is none (a UNIX socket has none) shares one name."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(found), IPV6_PREFIX), strict=False))
        found = found.ipv4_mapped
    return str(found)


def _has_room(connection: Connection) -> bool:
    some = select(literal_column("1")).where(_OURS).limit(MOST_ADDRESSES).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one() < MOST_ADDRESSES


def _make_room(connection: Connection, now: datetime) -> bool:
    """Forgets who is not blocked: they have a few free tries more."""
    login_throttle.delete_unlocked(connection, _OURS, tables.login_failures.c.locked_until <= now)
    return _has_room(connection)
