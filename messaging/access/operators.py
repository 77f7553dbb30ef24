"""Persons with a name, a role and a password of their own. `DASHBOARD_PASSWORD` lets the first one in."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from messaging.access import actions, login_throttle, sessions
from messaging.access.actor import acting_name
from messaging.access.names import require_name
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, lock_keys
from utils.errors import Conflict, InvalidInput, NotFound
from utils.json_shapes import rfc3339
from utils.passwords import hash_password, is_password, is_same
from utils.tokens import digest_of

VIEWER, SENDER, APPROVER, ADMIN = "viewer", "sender", "approver", "admin"
# Each may do what those before it may.
ROLES: Final = (VIEWER, SENDER, APPROVER, ADMIN)
# The operator whom DASHBOARD_PASSWORD lets in until the password is changed.
FIRST = "admin"
LINK_VALID = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Operator:
    name: str
    role: str

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


class LastAdmin(Conflict):
    code = "last_admin"
    sentence = "Nobody else who can log in is an admin: make another person one first"


class LinkRefused(InvalidInput):
    code = "link_refused"
    sentence = "This link was used already, or is too old: ask for a new one"


def add(database: Database, name: str, role: str) -> str:
    """The token of a link by which the person chooses a password, once. Raises InvalidInput, Conflict."""
    require_name(name)
    _require_role(role)
    with database.write(settled=True) as connection:
        if _find(connection, name) is not None:
            raise Conflict(f"There is an operator {name!r}", code="name_taken")
        now = wall_clock(connection)
        row = {"name": name, "role": role, "created_at": now, "created_by": acting_name()}
        connection.execute(insert(tables.operators).values(**row))
        actions.note(connection, "operator.add", f"operator:{name}", after={"role": role})
        return _give_link(connection, name)


def new_link(database: Database, name: str) -> str:
    """For who forgot the password; it stays valid until the link is used. Raises NotFound."""
    with database.write(settled=True) as connection:
        _require(connection, name)
        actions.note(connection, "operator.link", f"operator:{name}")
        return _give_link(connection, name)


def use_link(database: Database, token: str, password: str) -> Operator:
    """Sets the password, and ends every session that had the old one. Raises LinkRefused, InvalidInput."""
    hashed = hash_password(password)
    with database.write(settled=True) as connection:
        # Locked: who is just being disabled, or has just used it, would else come in by what it was before.
        row = _of_link(connection, token, for_update=True)
        if row is None:
            raise LinkRefused
        _set(connection, row.name, password_hash=hashed, link_digest=None, link_until=None)
        sessions.end_all(connection, row.name)
        return Operator(row.name, row.role)


def link_holder(database: Database, token: str) -> str | None:
    """Whose link it is; None where it is nobody's any more."""
    with database.read() as connection:
        row = _of_link(connection, token)
    return None if row is None else row.name


def change_password(
    database: Database, operator: Operator, old: str, new: str, first: str | None, address: str | None = None
) -> None:
    """`first`: DASHBOARD_PASSWORD. Every session ends. Raises InvalidInput, Conflict, login_throttle.TooManyTries."""
    hashed = hash_password(new)
    login_throttle.require_free(database, operator.name, address)
    with database.read() as connection:
        known = _find(connection, operator.name)
    if not _is_right(known, operator.name, old, first):
        # A browser that was left open is no place to guess at leisure.
        login_throttle.count_failure(database, operator.name, address)
        raise InvalidInput("This is not your present password", code="wrong_password", field="old")
    login_throttle.forget(database, operator.name)
    with database.write(settled=True) as connection:
        # Two who change the first one's at once: neither has a row to lock yet.
        lock_keys(connection, [f"operator:{operator.name}"])
        row = _find(connection, operator.name, for_update=True)
        if _hash_of(row) != _hash_of(known):
            raise Conflict("Your password was changed meanwhile: log in again", code="password_changed")
        if row is None:
            first_row = {"name": operator.name, "role": operator.role, "created_at": wall_clock(connection)}
            connection.execute(insert(tables.operators).values(**first_row))
        _set(connection, operator.name, password_hash=hashed)
        sessions.end_all(connection, operator.name)
        actions.note(connection, "operator.password", f"operator:{operator.name}")


def log_in(database: Database, name: str, password: str, address: str | None, first: str | None) -> Operator:
    """`first`: DASHBOARD_PASSWORD. Raises InvalidInput (wrong_password), login_throttle.TooManyTries."""
    with database.read() as connection:
        row = _find(connection, name)
    is_known = row is not None or name == FIRST
    login_throttle.require_free(database, name if is_known else None, address)
    if not _is_right(row, name, password, first):
        login_throttle.count_failure(database, name if is_known else None, address)
        raise InvalidInput("Name or password is wrong", code="wrong_password")
    login_throttle.forget(database, name)
    return Operator(name, ADMIN if row is None else row.role)


def change_role(database: Database, name: str, role: str, *, keep_an_admin: bool = False) -> None:
    """Counts at the next request. `keep_an_admin`: as for `disable`. Raises InvalidInput, NotFound, LastAdmin."""
    _require_role(role)
    with database.write(settled=True) as connection:
        row = _require(connection, name)
        if keep_an_admin and role != ADMIN:
            _require_other_admin(connection, name)
        _set(connection, name, role=role)
        said = {"role": row.role}, {"role": role}
        actions.note(connection, "operator.role", f"operator:{name}", *said)


def disable(database: Database, name: str, *, keep_an_admin: bool = False) -> None:
    """No login any more, and every session ends. A new link lets the person in again.

    `keep_an_admin`: for the pages, which would let nobody in who could take it back. Raises NotFound, LastAdmin.
    """
    with database.write(settled=True) as connection:
        _require(connection, name)
        if keep_an_admin:
            _require_other_admin(connection, name)
        values = {"disabled_at": wall_clock(connection), "link_digest": None, "password_hash": None}
        _set(connection, name, **values)
        sessions.end_all(connection, name)
        actions.note(connection, "operator.disable", f"operator:{name}")


def list_operators(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        rows = connection.execute(select(tables.operators).order_by(tables.operators.c.name)).all()
    return [
        {
            "name": row.name,
            "role": row.role,
            "state": _state(row),
            "created_at": rfc3339(row.created_at),
            "created_by": row.created_by,
            "disabled_at": rfc3339(row.disabled_at),
        }
        for row in rows
    ]


def operator_of(connection: Connection, name: str) -> Operator | None:
    """As it stands now: a role that was changed counts at once. None where it may not come in any more."""
    row = _find(connection, name)
    if row is None:
        return Operator(FIRST, ADMIN) if name == FIRST else None
    return None if row.password_hash is None else Operator(row.name, row.role)


def is_nobody_set(database: Database) -> bool:
    """Whether no operator was ever added: offline that lets everybody in."""
    with database.read() as connection:
        return connection.execute(select(tables.operators.c.id).limit(1)).first() is None


def _state(row: Row[Any]) -> str:
    if row.password_hash is not None:
        return "active"
    return "invited" if row.link_digest is not None else "disabled"


def _is_right(row: Row[Any] | None, name: str, password: str, first: str | None) -> bool:
    if row is None and name == FIRST and first is not None:
        return is_same(password, first)
    return is_password(password, None if row is None else row.password_hash)


def _hash_of(row: Row[Any] | None) -> str | None:
    return None if row is None else row.password_hash


def _find(connection: Connection, name: str, *, for_update: bool = False) -> Row[Any] | None:
    statement = select(tables.operators).where(tables.operators.c.name == name)
    return connection.execute(statement.with_for_update() if for_update else statement).one_or_none()


def _require(connection: Connection, name: str) -> Row[Any]:
    row = _find(connection, name)
    if row is None:
        raise NotFound(f"There is no operator {name!r}", field="name")
    return row


def _require_other_admin(connection: Connection, name: str) -> None:
    # Two admins who take each other's role at once.
    lock_keys(connection, ["operators:admins"])
    admins = select(tables.operators.c.name).where(
        tables.operators.c.role == ADMIN, tables.operators.c.password_hash.is_not(None)
    )
    found = set(connection.execute(admins).scalars())
    # DASHBOARD_PASSWORD lets the first one in as long as there is no row of it.
    if found == {name} and _find(connection, FIRST) is not None:
        raise LastAdmin


def _require_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidInput(f"A role is one of {', '.join(ROLES)}", code="invalid_role", field="role")


def _set(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(update(tables.operators).where(tables.operators.c.name == name).values(**values))


def _give_link(connection: Connection, name: str) -> str:
    token = secrets.token_urlsafe(24)
    until = wall_clock(connection) + LINK_VALID
    _set(connection, name, link_digest=digest_of(token), link_until=until, disabled_at=None)
    return token


def _of_link(connection: Connection, token: str, *, for_update: bool = False) -> Row[Any] | None:
    valid = tables.operators.c.link_until > wall_clock(connection)
    ours = tables.operators.c.link_digest == digest_of(token)
    statement = select(tables.operators).where(ours, valid)
    return connection.execute(statement.with_for_update() if for_update else statement).one_or_none()
