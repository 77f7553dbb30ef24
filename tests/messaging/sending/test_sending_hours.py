"""Sending windows: what is due while its window is closed waits for the opening, in the recipient's zone."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta

import pytest

from messaging.sending.claim import ClaimLimits
from messaging.sending.sending_hours import RULES, SendingWindows, curfew_of, rules
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support import delivery
from utils.settings import SettingsError, load_settings

LAGOS, NAIROBI, KAMPALA = "+2347031234567", "+254711000077", "+256712345678"
WINDOWS = SendingWindows.of({"acme": "promotional", "20880": "transactional"})


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-24T{text}:00").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("recipient", "now", "opening"),
    [
        (LAGOS, at("06:59"), at("07:01")),
        (LAGOS, at("07:01"), None),
        (LAGOS, at("18:56"), None),
        (LAGOS, at("18:58"), at("07:01") + timedelta(days=1)),
        (NAIROBI, at("04:30"), at("05:01")),
        (NAIROBI, at("12:00"), None),
        (NAIROBI, at("15:00"), at("05:01") + timedelta(days=1)),
        (KAMPALA, at("23:00"), None),
    ],
)
def test_a_promotional_text_waits_for_the_opening_in_the_recipients_zone(
    recipient: str, now: datetime, opening: datetime | None
) -> None:
    assert WINDOWS.opening_for("ACME", recipient, now) == opening


@pytest.mark.parametrize("sender_id", ["20880", "OTHER", None])
def test_a_sender_that_is_not_promotional_has_no_window(sender_id: str | None) -> None:
    assert WINDOWS.opening_for(sender_id, LAGOS, at("02:00")) is None


def test_every_window_of_the_file_names_its_source() -> None:
    read = tomllib.loads(RULES.read_text(encoding="utf-8"))["windows"]
    assert len(read) == len(rules()) == 2
    assert all(one["source"] for one in read)


def test_a_refusal_for_the_hour_is_tried_again_when_the_window_opens_there() -> None:
    assert curfew_of(NAIROBI).next_opening(at("20:00")) == at("05:01") + timedelta(days=1)
    assert curfew_of(KAMPALA).next_opening(at("20:00")) == at("07:01") + timedelta(days=1)


def test_rows_outside_their_window_stay_queued_until_it_opens(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (closed,) = delivery.queue(database, LAGOS, sender_id="ACME")
    (open_one,) = delivery.queue(database, NAIROBI, sender_id="20880")
    elsewhere = LAGOS[:-1] + "9"
    (confirmation,) = delivery.queue(database, elsewhere, sender_id="ACME", passes_opt_out=True, text="Done")
    opening = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=3))
    monkeypatch.setattr("messaging.sending.sending_hours.Window.is_open", lambda _window, _now: False)
    monkeypatch.setattr("messaging.sending.sending_hours.Window.next_opening", lambda _window, _now: opening)
    found = delivery.claim_as(database, "worker", ClaimLimits(500, delivery.LEASE, windows=WINDOWS))
    assert {one for claim in found for one in claim.recipients.values()} == {open_one, confirmation}
    row = delivery.only(database, tables.messages, tables.messages.c.id == closed)
    assert (row.status, row.due_at, row.reason) == ("queued", opening, "sending_window")


def test_classes_are_read_from_the_settings() -> None:
    settings = load_settings({"SENDER_CLASSES": "ACME = promotional, 20880=transactional"})
    assert settings.sender_classes == {"ACME": "promotional", "20880": "transactional"}


@pytest.mark.parametrize("value", ["ACME", "ACME=loud", "=promotional", "ACME=promotional,,x"])
def test_a_class_nobody_knows_stops_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="SENDER_CLASSES must be a comma list like ACME=promotional"):
        load_settings({"SENDER_CLASSES": value})
