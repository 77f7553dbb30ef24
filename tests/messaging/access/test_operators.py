from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from messaging.access import actions, login_throttle, operators, sessions
from messaging.access.actor import Actor, acting
from messaging.access.login_throttle import FREE_TRIES, TooManyTries
from messaging.access.operators import LastAdmin, LinkRefused, Operator
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.databases import is_anybody_blocked
from tests.support.stack import eventually
from utils.errors import Conflict, InvalidInput, NotFound

PASSWORD = "correct horse battery"
FIRST = "the-password-of-the-settings"
HERE = "192.0.2.7"


def added(database: Database, name: str = "ann", role: str = "sender", password: str = PASSWORD) -> Operator:
    return operators.use_link(database, operators.add(database, name, role), password)


def log_in(database: Database, name: str, password: str, address: str = HERE) -> Operator:
    return operators.log_in(database, name, password, address, FIRST)


def test_a_person_comes_in_by_the_password_that_the_link_set(database: Database) -> None:
    token = operators.add(database, "ann", "sender")
    assert operators.link_holder(database, token) == "ann"
    with pytest.raises(InvalidInput, match="Name or password"):
        log_in(database, "ann", PASSWORD)
    assert operators.use_link(database, token, PASSWORD) == Operator("ann", "sender")
    assert log_in(database, "ann", PASSWORD) == Operator("ann", "sender")


def test_a_link_is_good_once_and_for_three_days(database: Database) -> None:
    token = operators.add(database, "ann", "sender")
    operators.use_link(database, token, PASSWORD)
    with pytest.raises(LinkRefused):
        operators.use_link(database, token, "another password")
    late = operators.new_link(database, "ann")
    with database.write() as connection:
        past = wall_clock(connection) - timedelta(seconds=1)
        connection.execute(update(tables.operators).values(link_until=past))
    assert operators.link_holder(database, late) is None
    with pytest.raises(LinkRefused):
        operators.use_link(database, late, "another password")
    assert log_in(database, "ann", PASSWORD).name == "ann"


def test_a_password_that_is_refused_leaves_the_link_good(database: Database) -> None:
    token = operators.add(database, "ann", "sender")
    with pytest.raises(InvalidInput, match="between 12 and 200"):
        operators.use_link(database, token, "short")
    assert operators.use_link(database, token, PASSWORD).name == "ann"


def test_the_password_of_the_settings_lets_the_first_in_until_it_is_changed(database: Database) -> None:
    first = log_in(database, "admin", FIRST)
    assert first == Operator("admin", "admin")
    with pytest.raises(InvalidInput, match="not your present password"):
        operators.change_password(database, first, "wrong", PASSWORD, FIRST)
    operators.change_password(database, first, FIRST, PASSWORD, FIRST)
    assert log_in(database, "admin", PASSWORD) == first
    with pytest.raises(InvalidInput):
        log_in(database, "admin", FIRST)


def test_without_a_password_in_the_settings_the_first_has_none(database: Database) -> None:
    with pytest.raises(InvalidInput):
        operators.log_in(database, "admin", "", HERE, None)


def test_wrong_passwords_make_each_further_try_wait_the_right_one_too(database: Database) -> None:
    added(database)
    for _ in range(FREE_TRIES):
        with pytest.raises(InvalidInput):
            log_in(database, "ann", "wrong")
    with pytest.raises(TooManyTries, match="wait 30 seconds"):
        log_in(database, "ann", PASSWORD, "198.51.100.1")
    with pytest.raises(TooManyTries):
        log_in(database, "admin", FIRST)
    assert log_in(database, "admin", FIRST, "198.51.100.1").name == "admin"


def test_the_wait_ends_and_the_right_password_clears_the_name(database: Database) -> None:
    added(database)
    for _ in range(FREE_TRIES):
        with pytest.raises(InvalidInput):
            log_in(database, "ann", "wrong")
    with database.write() as connection:
        for row in connection.execute(tables.login_failures.select()).all():
            until = row.locked_until - timedelta(minutes=1)
            ours = tables.login_failures.c.who == row.who
            connection.execute(update(tables.login_failures).where(ours).values(locked_until=until))
    assert log_in(database, "ann", PASSWORD).name == "ann"
    with database.read() as connection:
        left = [row.who for row in connection.execute(tables.login_failures.select())]
    assert left == [f"address:{HERE}"]


def test_names_that_nobody_has_fill_no_table(database: Database) -> None:
    for number in range(FREE_TRIES):
        with pytest.raises(InvalidInput, match="Name or password"):
            log_in(database, f"nobody{number}", "wrong")
    with database.read() as connection:
        assert [row.who for row in connection.execute(tables.login_failures.select())] == [f"address:{HERE}"]


def test_old_failures_are_forgotten(database: Database) -> None:
    with pytest.raises(InvalidInput):
        log_in(database, "nobody", "wrong")
    with database.write() as connection:
        failed_at = connection.execute(tables.login_failures.select()).one().failed_at
        login_throttle.forget_old(connection, failed_at + login_throttle.FORGOTTEN_AFTER)
        assert len(connection.execute(tables.login_failures.select()).all()) == 1
        login_throttle.forget_old(connection, failed_at + 2 * login_throttle.FORGOTTEN_AFTER)
        assert connection.execute(tables.login_failures.select()).all() == []


def test_who_is_disabled_is_out_at_once_and_comes_back_by_a_link(database: Database) -> None:
    added(database)
    token = sessions.begin(database, "ann", HERE, "Firefox")
    operators.disable(database, "ann")
    assert sessions.find(database, token) is None
    with pytest.raises(InvalidInput):
        log_in(database, "ann", PASSWORD)
    with database.read() as connection:
        assert operators.operator_of(connection, "ann") is None
    assert [one["state"] for one in operators.list_operators(database)] == ["disabled"]
    operators.use_link(database, operators.new_link(database, "ann"), "another password")
    assert log_in(database, "ann", "another password").role == "sender"


def test_a_new_password_ends_the_sessions_of_the_old_one(database: Database) -> None:
    ann = added(database)
    token = sessions.begin(database, "ann", HERE, "Firefox")
    operators.change_password(database, ann, PASSWORD, "another password", FIRST)
    assert sessions.find(database, token) is None


def test_a_present_password_is_guessed_no_more_often_than_at_the_login(database: Database) -> None:
    ann = added(database)
    for _ in range(FREE_TRIES):
        with pytest.raises(InvalidInput, match="not your present password"):
            operators.change_password(database, ann, "wrong", "another password", FIRST, HERE)
    with pytest.raises(TooManyTries):
        operators.change_password(database, ann, PASSWORD, "another password", FIRST, "198.51.100.1")
    with pytest.raises(TooManyTries):
        log_in(database, "ann", PASSWORD)


def test_the_last_admin_who_can_log_in_stays_one(database: Database) -> None:
    added(database, "ann", "admin")
    operators.disable(database, "ann", keep_an_admin=True)  # the first one's password still lets somebody in
    operators.use_link(database, operators.new_link(database, "ann"), PASSWORD)
    operators.change_password(database, Operator("admin", "admin"), FIRST, PASSWORD, FIRST)
    operators.change_role(database, "admin", "viewer", keep_an_admin=True)
    operators.add(database, "bea", "admin")  # she has not used her link
    with pytest.raises(LastAdmin, match="make another person one first"):
        operators.disable(database, "ann", keep_an_admin=True)
    with pytest.raises(LastAdmin):
        operators.change_role(database, "ann", "viewer", keep_an_admin=True)
    operators.change_role(database, "ann", "admin", keep_an_admin=True)
    operators.disable(database, "admin", keep_an_admin=True)  # a viewer by now
    operators.disable(database, "ann")  # a shell can take it back
    assert {one["state"] for one in operators.list_operators(database)} == {"disabled", "invited"}


@pytest.mark.parametrize("what", ["disabled", "given another one"])
def test_who_meanwhile_is_disabled_or_has_another_password_changes_none(
    database: Database, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ann = added(database)
    link = operators.new_link(database, "ann")
    compare = operators.is_password

    def compare_and_then(*given: str | None) -> bool:
        is_right = compare(*given)  # type: ignore[arg-type]
        if what == "disabled":
            operators.disable(database, "ann")
        else:
            operators.use_link(database, link, "a third password")
        return is_right

    monkeypatch.setattr(operators, "is_password", compare_and_then)
    with pytest.raises(Conflict, match="changed meanwhile"):
        operators.change_password(database, ann, PASSWORD, "another password", FIRST)
    monkeypatch.undo()
    with pytest.raises(InvalidInput):
        log_in(database, "ann", "another password")


@pytest.mark.parametrize("name", ["ann", "admin"])
def test_of_two_who_change_one_password_at_once_one_does(database: Database, name: str) -> None:
    """`admin` has no row before, so there is none to lock."""
    who = added(database) if name == "ann" else Operator("admin", "admin")
    old = PASSWORD if name == "ann" else FIRST
    outcome: list[str] = []

    def change(new: str) -> None:
        try:
            operators.change_password(database, who, old, new, FIRST)
            outcome.append("changed")
        except (Conflict, InvalidInput):
            outcome.append("refused")

    changing = [threading.Thread(target=change, args=(f"another password {number}",)) for number in range(2)]
    for one in changing:
        one.start()
    for one in changing:
        one.join()
    assert sorted(outcome) == ["changed", "refused"]


def test_a_session_ends_by_itself_when_nobody_uses_it_or_when_it_is_a_week_old(database: Database) -> None:
    idle, old, used = (sessions.begin(database, name, HERE, "Firefox") for name in ("ann", "ben", "cy"))
    with database.write() as connection:
        now = wall_clock(connection)
        for name, values in {
            "ann": {"seen_at": now - sessions.IDLE - timedelta(seconds=1)},
            "ben": {"created_at": now - sessions.LONGEST - timedelta(seconds=1)},
            "cy": {"seen_at": now - timedelta(minutes=2)},
        }.items():
            theirs = tables.sessions.c.operator == name
            connection.execute(update(tables.sessions).where(theirs).values(**values))
    assert (sessions.find(database, idle), sessions.find(database, old)) == (None, None)
    found = sessions.find(database, used)
    assert found is not None
    assert found[1] == "cy"
    (listed,) = sessions.list_sessions(database)
    assert listed["seen_at"] >= listed["created_at"]
    with database.write() as connection:
        sessions.forget_old(connection, now)
        assert len(connection.execute(tables.sessions.select()).all()) == 1


def test_only_the_own_session_is_ended_unless_an_admin_asks(database: Database) -> None:
    sessions.begin(database, "ann", HERE, "Firefox")
    (listed,) = sessions.list_sessions(database)
    with pytest.raises(NotFound):
        sessions.end(database, listed["id"], "ben")
    sessions.end(database, listed["id"], "ann")
    assert sessions.list_sessions(database) == []


def test_a_role_counts_at_once(database: Database) -> None:
    added(database)
    operators.change_role(database, "ann", "viewer")
    with database.read() as connection:
        now = operators.operator_of(connection, "ann")
    assert now == Operator("ann", "viewer")
    assert (now.may("viewer"), now.may("sender")) == (True, False)


@pytest.mark.parametrize(
    ("name", "role"), [("A", "sender"), ("ann!", "sender"), ("", "sender"), ("ann", "boss")]
)
def test_a_name_or_a_role_that_cannot_be_is_refused(database: Database, name: str, role: str) -> None:
    with pytest.raises(InvalidInput):
        operators.add(database, name, role)
    assert operators.is_nobody_set(database)


def test_a_name_is_taken_once(database: Database) -> None:
    operators.add(database, "ann", "sender")
    with pytest.raises(Conflict):
        operators.add(database, "ann", "admin")


def test_everything_that_an_admin_did_is_written_down_and_no_secret_is(database: Database) -> None:
    known = acting.set(Actor("operator:admin", HERE))
    try:
        ann = added(database)
        operators.change_role(database, "ann", "viewer")
        operators.change_password(database, ann, PASSWORD, "another password", FIRST)
        operators.disable(database, "ann")
    finally:
        acting.reset(known)
    found = actions.list_actions(database, subject="operator:ann")["items"]
    assert [one["action"].partition(".")[2] for one in reversed(found)] == [
        "add",
        "role",
        "password",
        "disable",
    ]
    assert (found[2]["before"], found[2]["after"]) == ({"role": "sender"}, {"role": "viewer"})
    assert "password" not in str([(one["before"], one["after"]) for one in found])


def test_a_link_that_is_used_while_its_person_is_disabled_lets_nobody_in(database: Database) -> None:
    """PostgreSQL shows the old row to who reads while another transaction changes it."""
    token = operators.add(database, "ann", "sender")
    outcome: list[str] = []

    def use() -> None:
        try:
            outcome.append(operators.use_link(database, token, PASSWORD).name)
        except LinkRefused:
            outcome.append("refused")

    with database.write() as connection:
        disabled = {"disabled_at": wall_clock(connection), "link_digest": None, "password_hash": None}
        connection.execute(update(tables.operators).values(**disabled))
        user = threading.Thread(target=use)
        user.start()
        # SQLite has one writer: there the other waits for this one in any case.
        if not database.is_sqlite:
            eventually(lambda: is_anybody_blocked(database), "it meets the row that is changed")
    user.join()
    assert outcome == ["refused"]
    assert operators.list_operators(database)[0]["state"] == "disabled"
