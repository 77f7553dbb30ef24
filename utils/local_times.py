"""Times as people type and read them, in the zone that TIME_ZONE names. Programs get RFC 3339 with an offset."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from utils.errors import InvalidInput

DAY = timedelta(days=1)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")


def read_local_time(text: str, zone: ZoneInfo) -> datetime:
    """Without an offset it is a time of `zone`. Raises InvalidInput."""
    plain = text.strip()
    try:
        # A bare number may be a date without dashes, or seconds since 1970: nobody can tell.
        moment = None if plain.isdecimal() else datetime.fromisoformat(plain)
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidInput(
            f"{text!r} is not a time like 2026-11-24T08:00 (of {zone.key}) or 2026-11-24T08:00Z"
        )
    local = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    if not _is_within_reach(local):
        raise InvalidInput(f"{text!r} is too far away: the calendar ends there")
    if not moment.tzinfo and local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment:
        raise InvalidInput(f"{text!r} does not exist in {zone.key}: its clocks are put forward then")
    return local


def read_end_of_day(day: str, zone: ZoneInfo) -> datetime:
    """Of `2027-01-31`: what ends on a day is valid on that day. Raises InvalidInput."""
    return read_local_time(f"{day}T23:59:59", zone)


def _is_within_reach(moment: datetime) -> bool:
    """Whether every zone has a date for it, so that it can be stored, compared and shown."""
    try:
        return all((moment + one).astimezone(UTC) for one in (-DAY, DAY))
    except OverflowError:
        return False


def show_local_time(rfc3339: str, zone: ZoneInfo) -> str:
    """`2026-11-24 11:00:00 Africa/Nairobi`. What is no time of ours stays as it is."""
    return show_local_times(rfc3339, zone) if _RFC3339.fullmatch(rfc3339) else rfc3339


def show_local_times(sentence: str, zone: ZoneInfo) -> str:
    """The same for the times in a sentence of ours. Not for what others wrote: a text is shown as it was sent."""

    def local(found: re.Match[str]) -> str:
        moment = datetime.fromisoformat(found[0]).astimezone(zone)
        return f"{moment:%Y-%m-%d %H:%M:%S} {zone.key}"

    return _RFC3339.sub(local, sentence)


def show_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_age(age: timedelta) -> str:
    """`3 minutes ago`, in the largest unit of which there is a whole one."""
    seconds = age.total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count > 0:
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "less than a minute ago"
