"""API keys made here: named, scoped, stored as a hash. Those in `API_KEYS` stay valid beside them, with all scopes.

A test key is one for whose holder nothing leaves: it is served from a store of its own (routes.requests_of_test_keys).
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, insert, not_, or_, select, update

from messaging.access import actions
from messaging.access.actor import acting_name
from messaging.access.names import require_name
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.errors import Conflict, InvalidInput, NotFound
from utils.json_shapes import booked_money, rfc3339
from utils.money import Money, read_amount
from utils.tokens import digest_of

SEND, READ, METRICS, ADMIN = "send", "read", "metrics", "admin"
SCOPES: Final = (SEND, READ, METRICS, ADMIN)
# What a test key may do to test data.
TEST_SCOPES: Final = (SEND, READ)
PREFIX = "sms_"
# For the eye. Whether a key is one stands in its row.
TEST_PREFIX = "sms_test_"
# Of a key, shown in lists: enough to recognise it by, far from enough to guess it.
SHOWN_CHARACTERS = 10
SHOWN_OF_SECRET = SHOWN_CHARACTERS - len(PREFIX)
SECRET_BYTES = 24
# A key that was revoked counts for so long at most in a process that has just seen it.
REMEMBERED_SECONDS = 5.0
# A busy key would else cost a write for each request.
USE_WRITTEN_EVERY = timedelta(minutes=1)
ENVIRONMENT = "environment"

_TEST_KEYS = select(tables.api_keys.c.id).where(tables.api_keys.c.test)
_LIVE_KEYS = select(tables.api_keys.c.id).where(not_(tables.api_keys.c.test))


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose key it is. `name` as `Actor.name` has it."""

    name: str
    scopes: frozenset[str]
    test: bool = False


def create(
    database: Database,
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None = None,
    daily_limit: str | None = None,
    *,
    test: bool = False,
) -> tuple[str, dict[str, Any]]:
    """The key, which is shown this once, and how it stands in the list. Raises InvalidInput, Conflict.

    `daily_limit`: what its sends may cost in a day, like `KES 5000`.
    """
    _validate(name, scopes)
    if test:
        _validate_test(scopes, daily_limit)
    limit = None if daily_limit is None else _read_limit(daily_limit)
    prefix = TEST_PREFIX if test else PREFIX
    key = prefix + secrets.token_urlsafe(SECRET_BYTES)
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        if expires_at is not None and expires_at <= now:
            raise InvalidInput("A key has to expire after now", code="invalid_time", field="expires")
        taken = select(tables.api_keys.c.id).where(tables.api_keys.c.name == name)
        if connection.execute(taken).first() is not None:
            raise Conflict(f"There is a key {name!r}: names are not used twice", code="name_taken")
        row = {
            "name": name,
            "prefix": key[: len(prefix) + SHOWN_OF_SECRET],
            "digest": digest_of(key),
            "scopes": ",".join(one for one in SCOPES if one in scopes),
            "test": test,
            **_limit_columns(limit),
            "expires_at": expires_at,
            "created_at": now,
            "created_by": acting_name(),
        }
        made = connection.execute(insert(tables.api_keys).values(**row).returning(tables.api_keys)).one()
        shown = _in_json(made)
        actions.note(connection, "key.create", f"key:{name}", after=shown)
    return key, shown


def list_keys(database: Database) -> list[dict[str, Any]]:
    """Oldest first, those that were revoked too."""
    with database.read() as connection:
        return [
            _in_json(row)
            for row in connection.execute(select(tables.api_keys).order_by(tables.api_keys.c.id))
        ]


def has_test_keys(database: Database) -> bool:
    """Whether one was ever made: what it sent may still wait after it was revoked."""
    with database.read() as connection:
        return connection.execute(_TEST_KEYS.limit(1)).first() is not None


def revoke(database: Database, name: str) -> dict[str, Any]:
    """Harmless to repeat. Raises NotFound."""
    ours = tables.api_keys.c.name == name
    with database.write(settled=True) as connection:
        row = connection.execute(select(tables.api_keys).where(ours).with_for_update()).one_or_none()
        if row is None:
            raise NotFound(f"There is no key {name!r}", field="name")
        if row.revoked_at is None:
            now = wall_clock(connection)
            connection.execute(update(tables.api_keys).where(ours).values(revoked_at=now))
            actions.note(connection, "key.revoke", f"key:{name}", before=_in_json(row))
        return _in_json(connection.execute(select(tables.api_keys).where(ours)).one())


def change_limit(database: Database, name: str, daily_limit: str | None) -> dict[str, Any]:
    """What its sends may cost in a day from now on; None: no limit of its own. Harmless to repeat.

    What is counted of today stays. A key that had no limit begins at nothing. Raises InvalidInput, NotFound.
    """
    limit = None if daily_limit is None else _read_limit(daily_limit)
    ours = tables.api_keys.c.name == name
    with database.write(settled=True) as connection:
        row = connection.execute(select(tables.api_keys).where(ours).with_for_update()).one_or_none()
        if row is None:
            raise NotFound(f"There is no key {name!r}", field="name")
        if row.test and limit is not None:
            raise _spends_nothing()
        changed = update(tables.api_keys).where(ours).values(**_limit_columns(limit))
        now_is = _in_json(connection.execute(changed.returning(tables.api_keys)).one())
        before, after = ({"daily_limit": one["daily_limit"]} for one in (_in_json(row), now_is))
        if after != before:
            actions.note(connection, "key.limit", f"key:{name}", before, after)
        return now_is


class KeyRing:
    """Finds whose key it is. Threads share it; what it found it remembers for a few seconds."""

    def __init__(self, database: Database, environment_keys: Sequence[str]) -> None:
        self._database = database
        self._environment = tuple(digest_of(one) for one in environment_keys)
        self._lock = threading.Lock()
        self._remembered: dict[str, tuple[float, Holder | None]] = {}
        self._any: tuple[float, bool] | None = None

    def find(self, key: str) -> Holder | None:
        digest = digest_of(key)
        # All are compared, always: the time tells nobody which one was near.
        if sum([hmac.compare_digest(digest, one) for one in self._environment]):
            return Holder(f"key:{ENVIRONMENT}", frozenset(SCOPES))
        if not key.startswith(PREFIX):
            return None
        with self._lock:
            known = self._remembered.get(digest)
        if known is not None and time.monotonic() - known[0] < REMEMBERED_SECONDS:
            return known[1]
        holder = self._look_up(digest)
        with self._lock:
            if holder is None:
                # Nobody fills this memory with guesses.
                self._remembered.pop(digest, None)
            else:
                self._remembered[digest] = time.monotonic(), holder
        return holder

    def is_empty(self) -> bool:
        """Whether no live key has ever been set or made: offline that lets everybody in."""
        if self._environment:
            return False
        if self._any is None or (not self._any[1] and time.monotonic() - self._any[0] > REMEMBERED_SECONDS):
            with self._database.read() as connection:
                found = connection.execute(_LIVE_KEYS.limit(1)).first() is not None
            self._any = time.monotonic(), found
        return not self._any[1]

    def _look_up(self, digest: str) -> Holder | None:
        valid = tables.api_keys.c.digest == digest, tables.api_keys.c.revoked_at.is_(None)
        with self._database.read() as connection:
            now = wall_clock(connection)
            not_expired = or_(tables.api_keys.c.expires_at.is_(None), tables.api_keys.c.expires_at > now)
            row = connection.execute(select(tables.api_keys).where(*valid, not_expired)).one_or_none()
        if row is None:
            return None
        if row.last_used_at is None or now - row.last_used_at > USE_WRITTEN_EVERY:
            with self._database.write() as connection:
                used = update(tables.api_keys).where(tables.api_keys.c.id == row.id)
                connection.execute(used.values(last_used_at=now))
        return Holder(f"key:{row.name}", frozenset(row.scopes.split(",")), row.test)


def _validate(name: str, scopes: Collection[str]) -> None:
    require_name(name)
    if name == ENVIRONMENT:
        raise InvalidInput("The keys in API_KEYS go by this name", code="invalid_name", field="name")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        said = f"{', '.join(unknown)}: no such scope. " if unknown else ""
        raise InvalidInput(f"{said}There are {', '.join(SCOPES)}", code="invalid_scope", field="scope")


def _validate_test(scopes: Collection[str], daily_limit: str | None) -> None:
    beyond = [one for one in SCOPES if one in scopes and one not in TEST_SCOPES]
    if beyond:
        raise InvalidInput(
            f"A test key has no use for {' and '.join(beyond)}: it sends and reads test data only."
            f" Give it {' or '.join(TEST_SCOPES)}",
            code="invalid_scope",
            field="scope",
        )
    if daily_limit is not None:
        raise _spends_nothing()


def _spends_nothing() -> InvalidInput:
    sentence = "A test key spends nothing, so it has no daily limit"
    return InvalidInput(sentence, code="invalid_money", field="daily_limit")


def _read_limit(text: str) -> Money:
    found = read_amount(text)
    if found is None:
        raise InvalidInput(
            "A daily limit is an amount above 0 behind its currency, like KES 5000",
            code="invalid_money",
            field="daily_limit",
        )
    return found


def _limit_columns(limit: Money | None) -> dict[str, Any]:
    return {
        "daily_limit_micros": None if limit is None else limit.micros,
        "daily_limit_currency": None if limit is None else limit.currency,
    }


def _in_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes.split(","),
        "test": row.test,
        "daily_limit": None
        if row.daily_limit_micros is None
        else booked_money(row.daily_limit_micros, row.daily_limit_currency),
        "created_at": rfc3339(row.created_at),
        "created_by": row.created_by,
        "expires_at": rfc3339(row.expires_at),
        "last_used_at": rfc3339(row.last_used_at),
        "revoked_at": rfc3339(row.revoked_at),
    }
