"""What a person types into one box: words of a text, and `to:`, `status:`, `batch:`, `after:`, `reference:` …"""

from __future__ import annotations

import shlex
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from messaging import statuses
from messaging.messages.views import MessageFilters
from utils.errors import InvalidInput, InvalidPhone
from utils.json_shapes import LARGEST_ID
from utils.phone_numbers import read_phone

SYNTAX = (
    "to:0711… text:word status:failed batch:7 reference:A-12 by:key:billing from:CLINIC network:Safaricom"
    " reason:absent_subscriber after:2026-11-01 before:2026-12-01 became:delivered"
)
# In `from:`, of those that name no sender.
NO_SENDER = "-"
# Python reads no number of more than 4300 digits.
LONGEST_ID = 20
# Before it no day of a zone has a moment in UTC, and nothing was sent.
FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(9999, 12, 30)
FIELDS = {name: name for name in ("reference", "reason", "network")} | {
    "by": "created_by",
    "from": "sender_id",
}
KEYS = ("to", "text", "status", "became", "batch", "after", "before", *FIELDS)


def read_search(typed: str, zone: ZoneInfo, default_region: str | None) -> MessageFilters:
    """Words without a key are a number where they are one, else they are searched in the text.

    Raises InvalidInput that names the part.
    """
    found: dict[str, Any] = {}
    words: list[str] = []
    for part in _parts(typed):
        key, colon, value = part.partition(":")
        if not colon or key.casefold() not in KEYS:
            words.append(part)
        elif not value:
            raise InvalidInput(f"Nothing stands behind {key}:", code="invalid_search", field="q")
        elif key.casefold() == "text":
            words.append(value)
        else:
            found |= _read(key.casefold(), value, zone, default_region)
    return _with_words(found, " ".join(words), default_region)


def search_part(key: str, value: str) -> str:
    """`network:Safaricom`, in quotes where it has a space: what `read_search` reads again."""
    return shlex.quote(f"{key}:{value}")


def _parts(typed: str) -> list[str]:
    try:
        return shlex.split(typed)
    except ValueError:
        # A quotation mark that is never closed is a mark.
        return typed.split()


def _read(key: str, value: str, zone: ZoneInfo, default_region: str | None) -> dict[str, Any]:
    if key == "to":
        return {"to": _phone(value, default_region)}
    if key in ("status", "became"):
        return _of_statuses(key, value)
    if key == "batch":
        if not value.isdecimal() or len(value) > LONGEST_ID or int(value) > LARGEST_ID:
            raise InvalidInput(f"{value} is no number of a send", code="invalid_search", field="q")
        return {"batch_id": int(value)}
    if key in FIELDS:
        return {FIELDS[key]: "" if (key, value) == ("from", NO_SENDER) else value}
    day = min(max(_day(key, value, zone), FIRST_DAY), LAST_DAY)
    if key == "after":
        return {"since": datetime.combine(day, time(), zone).astimezone(UTC)}
    return {"until": datetime.combine(day, time(), zone).astimezone(UTC)}


def _of_statuses(key: str, value: str) -> dict[str, Any]:
    """One, or several with commas between."""
    names = tuple(value.split(","))
    for name in names:
        if name not in statuses.ALL:
            sentence = f"{name} is no status: there are {', '.join(statuses.ALL)}"
            raise InvalidInput(sentence, code="invalid_search", field="q")
    if key == "became":
        return {"became": names}
    return {"status": value} if len(names) == 1 else {"statuses": names}


def _phone(value: str, default_region: str | None) -> str:
    try:
        return read_phone(value, default_region).e164
    except InvalidPhone as error:
        raise InvalidInput(f"{value}: {error.message}", code="invalid_search", field="q") from None


def _day(key: str, value: str, zone: ZoneInfo) -> date:
    today = {"today": 0, "yesterday": 1}
    if value in today:
        return datetime.now(zone).date() - timedelta(days=today[value])
    try:
        return date.fromisoformat(value)
    except ValueError:
        sentence = f"{key}: takes a day like 2026-11-24, or today or yesterday, not {value}"
        raise InvalidInput(sentence, code="invalid_search", field="q") from None


def _with_words(found: dict[str, Any], words: str, default_region: str | None) -> MessageFilters:
    if not words:
        return MessageFilters(**found)
    if "to" not in found and sum(one.isdecimal() for one in words) >= 7:
        try:
            return MessageFilters(**found, to=read_phone(words, default_region).e164)
        except InvalidPhone:
            pass
    return MessageFilters(**found, text=words)
