from __future__ import annotations

import os
import pwd

from messaging.access import keys
from messaging.storage.database import Database
from tests.cli.conftest import Sms, error_of, parsed

ME = f"shell:{pwd.getpwuid(os.getuid()).pw_name}"


def test_a_key_is_shown_once_and_listed_without_itself(sms: Sms, migrated: Database) -> None:
    made = sms("keys", "create", "--name", "billing", "--scope", "read, send")
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert keys.KeyRing(migrated, ()).find(key) is not None
    (listed,) = parsed(sms("keys", "list", "--json"))
    assert (listed["name"], listed["scopes"], listed["created_by"]) == ("billing", ["send", "read"], ME)
    assert key not in sms("keys", "list").stdout


def test_a_revoked_key_is_listed_as_such_and_the_action_too(sms: Sms, migrated: Database) -> None:
    made = parsed(sms("keys", "create", "--name", "billing", "--scope", "read", "--json"))
    assert sms("keys", "revoke", "billing").exit_code == 0
    assert keys.KeyRing(migrated, ()).find(made["key"]) is None
    found = parsed(sms("actions", "--actor", ME, "--json"))["items"]
    assert [one["action"] for one in found] == ["key.revoke", "key.create"]
    assert "key.revoke" in sms("actions", "--subject", "key:billing").stdout
    assert made["key"] not in sms("actions", "--json").stdout


def test_a_key_that_ends_on_a_day_is_valid_on_that_day(sms: Sms, migrated: Database) -> None:
    create = ("keys", "create", "--scope", "read", "--json", "--expires")
    assert parsed(sms(*create, "2999-01-31", "--name", "a"))["expires_at"].startswith("2999-01-31T23:59:59")
    assert parsed(sms(*create, "2999-01-31T08:00", "--name", "b"))["expires_at"].startswith(
        "2999-01-31T08:00"
    )


def test_the_limit_of_a_key_is_changed_and_taken_away(sms: Sms, migrated: Database) -> None:
    sms("keys", "create", "--name", "billing", "--scope", "send", "--daily-limit", "KES 5000")
    assert (
        sms("keys", "limit", "billing", "KES 9000").stdout
        == "The key billing may spend KES 9000.0000 in a day.\n"
    )
    assert "KES 9000" in sms("keys", "list").stdout
    assert parsed(sms("keys", "limit", "billing", "none", "--json"))["daily_limit"] is None
    assert sms("keys", "limit", "billing", "none").stdout == "The key billing has no limit of its own.\n"
    found = parsed(sms("actions", "--actor", ME, "--json"))["items"]
    assert [one["action"] for one in found] == ["key.limit", "key.limit", "key.create"]
    assert "like KES 5000" in error_of(sms("keys", "limit", "billing", "9000"))
    assert "There is no key" in error_of(sms("keys", "limit", "nobody", "none"))


def test_a_mistake_is_one_sentence(sms: Sms, migrated: Database) -> None:
    assert "no such scope" in error_of(sms("keys", "create", "--name", "billing", "--scope", "all"))
    assert "is not a time" in error_of(
        sms("keys", "create", "--name", "billing", "--scope", "read", "--expires", "tomorrow")
    )
    assert "There is no key" in error_of(sms("keys", "revoke", "billing"))


def test_a_test_key_is_made_with_its_store_and_listed_as_one(sms: Sms, migrated: Database) -> None:
    made = sms("keys", "create", "--name", "trial", "--scope", "send,read", "--test")
    assert made.stdout.startswith("sms_test_")
    (listed,) = parsed(sms("keys", "list", "--json"))
    assert listed["test"] is True
    assert "sms_test_" in sms("keys", "list").stdout


def test_a_test_key_that_would_reach_live_things_is_refused(sms: Sms, migrated: Database) -> None:
    refused = sms("keys", "create", "--name", "trial", "--scope", "send,admin", "--test")
    assert "A test key has no use for admin" in error_of(refused)
    assert parsed(sms("keys", "list", "--json")) == []
