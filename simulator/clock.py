"""Times as they are written: stored as seconds since the epoch, shown in UTC."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=256)
def iso_milliseconds(at: float) -> str:
    """``2018-03-19T08:34:18.445Z``, as in AT's inbox."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_seconds(at: float) -> str:
    """``2017-05-03T06:04:45Z``, as in AT's inbound callback."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
