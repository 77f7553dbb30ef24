from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from messaging.access import actions, keys
from messaging.access.actor import Actor, acting
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.errors import Conflict, InvalidInput, NotFound
from utils.tokens import digest_of

HOUR = timedelta(hours=1)


def money(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "KES"}


def ring(database: Database, *environment: str) -> keys.KeyRing:
    return keys.KeyRing(database, environment)


def test_a_key_is_found_by_its_holder_and_kept_as_a_hash_only(database: Database) -> None:
    key, made = keys.create(database, "billing", ["read", "send"])
    assert ring(database).find(key) == keys.Holder("key:billing", frozenset({"read", "send"}))
    assert (made["scopes"], key.startswith(made["prefix"])) == (["send", "read"], True)
    with database.read() as connection:
        (row,) = connection.execute(select(tables.api_keys)).all()
    assert not [value for value in row if isinstance(value, str) and key[keys.SHOWN_CHARACTERS :] in value]


@pytest.mark.parametrize("given", ["", "sms_", "sms_wrong", "x", "\ud800", "sms_\x00"])
def test_what_is_no_key_is_nobodys(database: Database, given: str) -> None:
    keys.create(database, "billing", ["read"])
    assert ring(database, "another-key-of-the-environment").find(given) is None


def test_a_key_of_the_environment_has_every_scope(database: Database) -> None:
    holder = ring(database, "first-key", "second-key").find("second-key")
    assert holder == keys.Holder("key:environment", frozenset(keys.SCOPES))


def test_a_revoked_key_is_nobodys_in_a_process_that_did_not_know_it(database: Database) -> None:
    key, _ = keys.create(database, "billing", ["read"])
    assert keys.revoke(database, "billing")["revoked_at"] is not None
    assert keys.revoke(database, "billing")["revoked_at"] is not None
    assert ring(database).find(key) is None


def test_a_revoked_key_is_forgotten_within_seconds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = keys.create(database, "billing", ["read"])
    found = ring(database)
    assert found.find(key) is not None
    keys.revoke(database, "billing")
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 0.0)
    assert found.find(key) is None


def test_an_expired_key_is_nobodys(database: Database) -> None:
    with database.read() as connection:
        now = wall_clock(connection)
    key, _ = keys.create(database, "billing", ["read"], now + HOUR)
    assert ring(database).find(key) is not None
    with database.write() as connection:
        connection.execute(update(tables.api_keys).values(expires_at=now - HOUR))
    assert ring(database).find(key) is None
    with pytest.raises(InvalidInput, match="after now"):
        keys.create(database, "late", ["read"], now - HOUR)


def test_its_last_use_is_shown_and_written_once_in_a_minute(database: Database) -> None:
    key, made = keys.create(database, "billing", ["read"])
    assert made["last_used_at"] is None
    ring(database).find(key)
    (first,) = keys.list_keys(database)
    ring(database).find(key)
    (second,) = keys.list_keys(database)
    assert first["last_used_at"] is not None
    assert second == first


@pytest.mark.parametrize(
    ("name", "scopes", "code"),
    [
        ("", ["read"], "invalid_name"),
        ("a b", ["read"], "invalid_name"),
        ("x" * 41, ["read"], "invalid_name"),
        ("environment", ["read"], "invalid_name"),
        ("billing", [], "invalid_scope"),
        ("billing", ["read", "everything"], "invalid_scope"),
    ],
)
def test_a_key_that_says_too_little_or_too_much_is_refused(
    database: Database, name: str, scopes: list[str], code: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        keys.create(database, name, scopes)
    assert refused.value.code == code
    assert keys.list_keys(database) == []


def test_a_name_is_used_once_also_after_its_end(database: Database) -> None:
    keys.create(database, "billing", ["read"])
    keys.revoke(database, "billing")
    with pytest.raises(Conflict, match="not used twice"):
        keys.create(database, "billing", ["read"])
    with pytest.raises(NotFound):
        keys.revoke(database, "nobodys")


def test_only_where_no_key_was_ever_made_is_the_ring_empty(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 0.0)
    found = ring(database)
    assert found.is_empty()
    keys.create(database, "billing", ["read"])
    keys.revoke(database, "billing")
    assert not found.is_empty()
    assert not ring(database, "key-of-the-environment").is_empty()


def test_who_made_and_who_ended_a_key_is_written_down(database: Database) -> None:
    known = acting.set(Actor("operator:ann", "192.0.2.7"))
    try:
        keys.create(database, "billing", ["read"])
        keys.revoke(database, "billing")
        keys.revoke(database, "billing")
    finally:
        acting.reset(known)
    ended, made = actions.list_actions(database)["items"]
    assert [(one["action"], one["subject"], one["actor"], one["address"]) for one in (made, ended)] == [
        ("key.create", "key:billing", "operator:ann", "192.0.2.7"),
        ("key.revoke", "key:billing", "operator:ann", "192.0.2.7"),
    ]
    assert (made["before"], made["after"]["created_by"]) == (None, "operator:ann")
    assert (ended["before"]["revoked_at"], ended["after"]) == (None, None)


def test_the_service_itself_is_nobody(database: Database) -> None:
    keys.create(database, "billing", ["read"])
    assert actions.list_actions(database)["items"] == []


def test_a_changed_limit_is_written_down_with_what_it_was(database: Database) -> None:
    keys.create(database, "billing", ["send"], daily_limit="KES 5000")
    known = acting.set(Actor("operator:ann", "192.0.2.7"))
    try:
        assert keys.change_limit(database, "billing", "KES 9000")["daily_limit"] == money("9000.0000")
        keys.change_limit(database, "billing", "KES 9000")
        assert keys.change_limit(database, "billing", None)["daily_limit"] is None
    finally:
        acting.reset(known)
    lifted, raised = actions.list_actions(database, subject="key:billing")["items"]
    assert {one["action"] for one in (raised, lifted)} == {"key.limit"}
    assert {one["actor"] for one in (raised, lifted)} == {"operator:ann"}
    assert [(one["before"]["daily_limit"], one["after"]["daily_limit"]) for one in (raised, lifted)] == [
        (money("5000.0000"), money("9000.0000")),
        (money("9000.0000"), None),
    ]


def test_a_limit_of_no_key_or_no_amount_is_refused_and_changes_nothing(database: Database) -> None:
    keys.create(database, "billing", ["send"], daily_limit="KES 5000")
    with pytest.raises(NotFound):
        keys.change_limit(database, "nobody", "KES 1")
    for wrong in ("5000", "KES 0", "KES -1", "none", ""):
        with pytest.raises(InvalidInput, match="like KES 5000"):
            keys.change_limit(database, "billing", wrong)
    (listed,) = keys.list_keys(database)
    assert listed["daily_limit"] == money("5000.0000")


def test_a_test_key_is_known_by_its_row_and_seen_by_its_beginning(database: Database) -> None:
    key, made = keys.create(database, "trial", ["send", "read"], test=True)
    assert ring(database).find(key) == keys.Holder("key:trial", frozenset({"read", "send"}), test=True)
    assert (key.startswith("sms_test_"), made["test"], len(made["prefix"])) == (True, True, 15)
    assert keys.has_test_keys(database)


def test_a_live_key_is_no_test_key_whatever_it_begins_with(database: Database) -> None:
    _, made = keys.create(database, "billing", ["read"])
    assert (made["test"], keys.has_test_keys(database)) == (False, False)
    with database.write() as connection:
        lookalike = f"{keys.TEST_PREFIX}lookalike"
        connection.execute(update(tables.api_keys).values(digest=digest_of(lookalike)))
    assert ring(database).find(lookalike) == keys.Holder("key:billing", frozenset({"read"}))


@pytest.mark.parametrize("scopes", [["send", "admin"], ["metrics"]])
def test_a_test_key_takes_no_scope_over_live_things(database: Database, scopes: list[str]) -> None:
    with pytest.raises(InvalidInput, match="A test key has no use for"):
        keys.create(database, "trial", scopes, test=True)
    assert keys.list_keys(database) == []


def test_a_test_key_has_no_daily_limit(database: Database) -> None:
    with pytest.raises(InvalidInput, match="spends nothing"):
        keys.create(database, "trial", ["send"], daily_limit="KES 5", test=True)
    keys.create(database, "trial", ["send"], test=True)
    with pytest.raises(InvalidInput, match="spends nothing"):
        keys.change_limit(database, "trial", "KES 5")


def test_a_test_key_closes_no_open_door(database: Database) -> None:
    """Offline everybody is let in until there is a key: trying a client must not lock the others out."""
    keys.create(database, "trial", ["send"], test=True)
    assert ring(database).is_empty()
