"""Times as people type and read them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from utils.errors import InvalidInput
from utils.local_times import read_local_time, show_age, show_local_time, show_local_times

NAIROBI, CAIRO = ZoneInfo("Africa/Nairobi"), ZoneInfo("Africa/Cairo")
EIGHT = datetime(2026, 11, 24, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    "typed",
    ["2026-11-24T11:00", " 2026-11-24 11:00:00 ", "2026-11-24T08:00Z", "2026-11-24T10:00+02:00"],
)
def test_a_time_without_an_offset_is_a_local_one(typed: str) -> None:
    assert read_local_time(typed, NAIROBI) == EIGHT


@pytest.mark.parametrize("typed", ["1764576000", "20261124", "tomorrow", "", "11:00"])
def test_what_is_no_time_is_refused_with_the_form_and_the_zone(typed: str) -> None:
    with pytest.raises(InvalidInput, match=r"2026-11-24T08:00 .of Africa/Nairobi. or 2026-11-24T08:00Z"):
        read_local_time(typed, NAIROBI)


def test_an_hour_that_a_change_of_clocks_leaves_out_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not exist in Africa/Cairo"):
        read_local_time("2026-04-24T00:30", CAIRO)


@pytest.mark.parametrize(
    "typed",
    [
        "0001-01-01T00:00",
        "9999-12-31T23:59",
        "0001-01-01T00:00Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59-05:00",
    ],
)
@pytest.mark.parametrize("zone", [NAIROBI, ZoneInfo("America/Lima"), ZoneInfo("UTC")])
def test_the_ends_of_the_calendar_are_refused(typed: str, zone: ZoneInfo) -> None:
    with pytest.raises(InvalidInput, match="too far away"):
        read_local_time(typed, zone)


def test_a_time_is_shown_with_its_zone_and_anything_else_as_it_is() -> None:
    assert show_local_time("2026-11-24T08:00:00.000Z", NAIROBI) == "2026-11-24 11:00:00 Africa/Nairobi"
    for other in ("delivered", "2026-11-24", "meet at 2026-11-24T08:00:00Z", ""):
        assert show_local_time(other, NAIROBI) == other


def test_the_times_in_a_sentence_are_shown_likewise() -> None:
    sentence = "from 2026-11-24T08:00:00Z to 2026-11-24T09:30:00.000Z"
    shown = "from 2026-11-24 11:00:00 Africa/Nairobi to 2026-11-24 12:30:00 Africa/Nairobi"
    assert show_local_times(sentence, NAIROBI) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-20, "less than a minute ago"),
        (59, "less than a minute ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (172_800, "2 days ago"),
    ],
)
def test_how_long_ago_is_told_in_the_largest_whole_unit(seconds: int, words: str) -> None:
    assert show_age(timedelta(seconds=seconds)) == words
