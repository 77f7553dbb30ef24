"""How the pages write times and states."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from routes.dashboard.blueprint import dashboard_bp
from routes.service import current_service
from utils.local_times import show_local_time


@dashboard_bp.app_template_filter("local")
def as_local_time(rfc3339: str | None) -> str:
    """In TIME_ZONE; nothing for none."""
    zone = ZoneInfo(current_service().settings.time_zone)
    return "" if rfc3339 is None else show_local_time(rfc3339, zone)


@dashboard_bp.app_template_filter("as_words")
def as_words(state: dict[str, Any] | None) -> str:
    """`status: sending, reason: none`."""
    return "; ".join(f"{name.replace('_', ' ')}: {_words(value)}" for name, value in (state or {}).items())


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values() if part is not None)
    return "none" if value is None else str(value)
