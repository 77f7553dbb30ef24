"""One box: words, and keys with a value; what cannot be read is named."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from messaging.messages.typed_search import KEYS, SYNTAX, read_search
from messaging.messages.views import MessageFilters
from utils.errors import InvalidInput

ZONE = ZoneInfo("Africa/Nairobi")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("", MessageFilters()),
        ("parcel today", MessageFilters(text="parcel today")),
        ("0711 000 001", MessageFilters(to="+254711000001")),
        ("to:0711000001 text:parcel", MessageFilters(to="+254711000001", text="parcel")),
        ("status:failed batch:7", MessageFilters(status="failed", batch_id=7)),
        ("status:failed,expired", MessageFilters(statuses=("failed", "expired"))),
        ("became:delivered", MessageFilters(became=("delivered",))),
        ("BECAME:failed,rejected", MessageFilters(became=("failed", "rejected"))),
        ("reference:A-12 by:key:billing", MessageFilters(reference="A-12", created_by="key:billing")),
        ("network:'Cell C' from:CLINIC", MessageFilters(network="Cell C", sender_id="CLINIC")),
        (
            "'from:Two words' reason:absent_subscriber",
            MessageFilters(sender_id="Two words", reason="absent_subscriber"),
        ),
        ("from:-", MessageFilters(sender_id="")),
        ("after:2026-11-24", MessageFilters(since=datetime(2026, 11, 23, 21, tzinfo=UTC))),
        ("before:2026-11-24", MessageFilters(until=datetime(2026, 11, 23, 21, tzinfo=UTC))),
        ("see http://example.org", MessageFilters(text="see http://example.org")),
        ("it's", MessageFilters(text="it's")),
    ],
)
def test_what_is_typed_is_read(typed: str, wanted: MessageFilters) -> None:
    assert read_search(typed, ZONE, "KE") == wanted


@pytest.mark.parametrize(
    "typed", ["status:gone", "became:failed,gone", "batch:x", "after:soon", "to:12", "from:"]
)
def test_what_cannot_be_read_is_refused(typed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_search(typed, ZONE, "KE")
    assert caught.value.field == "q"


def test_the_line_under_the_box_names_every_key_and_can_be_typed() -> None:
    assert {part.partition(":")[0] for part in SYNTAX.split()} == set(KEYS)
    assert read_search(SYNTAX.replace("0711…", "0711000001"), ZONE, "KE").became == ("delivered",)


@pytest.mark.parametrize(
    ("typed", "is_by_key"),
    [("", True), ("batch:7 became:failed", True), ("became:failed", False), ("network:MTN", False)],
)
def test_what_may_look_at_every_message_is_known(typed: str, is_by_key: bool) -> None:
    assert read_search(typed, ZONE, "KE").is_by_key is is_by_key
