"""How the pages write times, numbers, money, states and people."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from flask import g
from markupsafe import Markup

from messaging import statuses
from messaging.access.operators import SENDER
from messaging.messages.typed_search import search_part
from routes.dashboard import words
from routes.dashboard.blueprint import dashboard_bp
from routes.service import current_service
from utils import reasons
from utils.african_countries import country_name
from utils.callback_phones import mask_digits
from utils.local_times import show_age, show_duration, show_local_time, show_local_times
from utils.phone_numbers import mask_phone

# Between the clocks of two machines.
SKEW = timedelta(minutes=1)

dashboard_bp.add_app_template_filter(words.status_word)
dashboard_bp.add_app_template_filter(words.batch_word)
dashboard_bp.add_app_template_filter(words.of_tone)
dashboard_bp.add_app_template_global(lambda: reasons.BRAKES, "brakes")
dashboard_bp.add_app_template_filter(words.in_tone)
dashboard_bp.add_app_template_filter(words.without_report)
dashboard_bp.add_app_template_filter(show_duration, "duration")
dashboard_bp.add_app_template_filter(country_name)
dashboard_bp.add_app_template_global(lambda: secrets.token_hex(16), "random_key")
dashboard_bp.add_app_template_global(lambda: statuses.NOT_REACHED, "not_reached")
dashboard_bp.add_app_template_global(lambda: current_service().settings.time_zone, "time_zone")


@dashboard_bp.app_template_global("handset_url")
def find_handset(phone: str) -> str | None:
    """Of the simulator, where texts go to it."""
    settings = current_service().settings
    digits = phone.removeprefix("+")
    return f"{settings.simulator_url}/?find={digits}" if settings.is_offline and digits.isdecimal() else None


@dashboard_bp.app_template_filter("local")
def as_local_time(rfc3339: str | None) -> str:
    """In TIME_ZONE; nothing for none."""
    return "" if rfc3339 is None else show_local_time(rfc3339, _zone())


@dashboard_bp.app_template_filter("short")
def as_short_time(rfc3339: str | None) -> Markup:
    """`29 Nov 15:51`, with the year where it is another; the whole time, with its zone, is told on pointing."""
    if rfc3339 is None:
        return Markup()
    at, now = _at(rfc3339), datetime.now(_zone())
    shown = f"{at:%-d %b %H:%M}" if at.year == now.year else f"{at:%-d %b %Y}"
    return _time_element(rfc3339, shown)


@dashboard_bp.app_template_filter("ago")
def as_age(rfc3339: str) -> Markup:
    """`3 minutes ago`; the time itself is told on pointing. What lies ahead, by a clock that was set, is its time."""
    age = datetime.now(_zone()) - _at(rfc3339)
    shown = as_local_time(rfc3339) if age < -SKEW else show_age(age)
    return _time_element(rfc3339, shown)


def _time_element(rfc3339: str, shown: str) -> Markup:
    return Markup('<time datetime="{}" title="{}">{}</time>').format(rfc3339, as_local_time(rfc3339), shown)


@dashboard_bp.app_template_filter("local_day")
def as_local_day(rfc3339: str) -> str:
    """`Tue 24 Nov 2026`."""
    return f"{_at(rfc3339):%a %-d %b %Y}"


@dashboard_bp.app_template_filter("short_day")
def as_short_day(rfc3339: str) -> str:
    """`Tue 24`."""
    return f"{_at(rfc3339):%a %-d}"


@dashboard_bp.app_template_filter("search_day")
def as_search_of_day(rfc3339: str) -> str:
    """What finds the messages of this day in the box."""
    day = _at(rfc3339).date()
    return f"after:{day} before:{day + timedelta(days=1)}"


@dashboard_bp.app_template_filter("search_part")
def as_search_part(value: str, key: str) -> str:
    return search_part(key, value)


@dashboard_bp.app_template_filter("search_since")
def as_search_since(rfc3339: str) -> str:
    return f"after:{_at(rfc3339).date()}"


@dashboard_bp.app_template_filter("local_date")
def as_local_date(rfc3339: str) -> str:
    """`2026-11-24`, as `read_day` reads it."""
    return str(_at(rfc3339).date())


@dashboard_bp.app_template_filter("local_clock")
def as_local_clock(rfc3339: str) -> str:
    return f"{_at(rfc3339):%H:%M}"


@dashboard_bp.app_template_filter("local_times")
def as_local_times(sentence: str) -> str:
    return show_local_times(sentence, _zone())


@dashboard_bp.app_template_filter("number")
def as_number(value: int | None) -> str:
    return f"{value or 0:,}"


@dashboard_bp.app_template_filter("amount")
def as_amount(amount: str) -> str:
    """Two digits behind the point where more are zeros: `1,862.50`, `0.8000` stays `0.80`."""
    return f"{float(amount):,.2f}"


@dashboard_bp.app_template_filter("cost_words")
def as_cost(cost: Any) -> str:
    """Of money as the API writes it, or the word `unknown`."""
    if not isinstance(cost, dict):
        return "not known yet"
    return f"{cost['currency'] or ''} {as_amount(cost['amount'])}".strip()


@dashboard_bp.app_template_filter("percent")
def as_percent(share: float) -> str:
    return f"{share:.0%}"


@dashboard_bp.app_template_filter("phone")
def as_phone(phone: str | None) -> str:
    """Masked for a role that only looks."""
    operator = g.get("operator")
    may_see = operator is not None and operator.may(SENDER)
    return phone or "" if may_see else mask_phone(phone or "")


@dashboard_bp.app_template_filter("callback_body")
def as_callback_body(callback: dict[str, Any]) -> str:
    """As it came; for a role that only looks, with its long digit strings masked."""
    body = callback["body"]
    if body == "":
        return "erased"
    operator = g.get("operator")
    if operator is not None and operator.may(SENDER):
        return str(body or callback["body_base64"])
    return "not readable as text" if body is None else mask_digits(body)


@dashboard_bp.app_template_filter("explain")
def as_explanation(reason: str | None) -> str:
    found = reasons.explain(reason)
    return found.explanation if found else (reason or "").replace("_", " ")


@dashboard_bp.app_template_filter("source_word")
def as_source(source: str) -> str:
    return words.SOURCE_WORDS.get(source, source.replace("_", " "))


@dashboard_bp.app_template_filter("event_source")
def as_event_source(source: str) -> str:
    return words.EVENT_WORDS.get(source, source)


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


def _zone() -> ZoneInfo:
    return ZoneInfo(current_service().settings.time_zone)


def _at(rfc3339: str) -> datetime:
    return datetime.fromisoformat(rfc3339).astimezone(_zone())
