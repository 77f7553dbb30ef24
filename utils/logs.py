"""Logs as JSON lines on standard error: ids and outcomes, never a number in full, a text or a secret.

    logger.info("message accepted", extra={"message_id": 7, "attempt_id": 3})

Callers log ids in `extra`. The formatter is the second line of defence: it masks what looks like a phone
number, cuts query strings and blots out the configured secrets in whatever reaches it, tracebacks included.
"""

import json
import logging
import random
import re
import sys
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# They bring handlers of their own, which would print lines in another form beside ours.
BORROWED_LOGGERS = ("gunicorn.error", "gunicorn.access", "huey", "huey.consumer", "alembic", "werkzeug")
# At DEBUG these print URLs with their query, SQL with its parameters and the wire itself.
TALKATIVE_LOGGERS = ("urllib3", "sqlalchemy", "requests", "asyncio", "huey", "alembic")
MASKED = "…"
SHORTEST_SECRET = 6  # a shorter one would blot out ordinary words

# Digits that only a person's way of writing a number keeps apart; a plus or a zero in front tells it from dates and
# addresses.
WRITTEN_NUMBER = re.compile(
    r"(?<![\w.:-])(?:\+|%2[Bb])\d(?:(?:[-. ()]|%20){0,2}\d){8,14}(?!\d)"
    r"|(?<![\w.:-])\(?0\d{2,3}\)?[-. ]\d{3}[-. ]\d{3,4}(?![\w.:-])"
)
# In a path nothing else looks like it. Ids have no more digits.
NUMBER_IN_PATH = re.compile(r"\+?\d(?:[^\w/]{0,3}\d){8,}")
LONGEST_PATH = 300
# What a terminal obeys, or shows in another order or not at all. JSON escapes only those below U+0020.
CONTROLS = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
PHONE_NUMBER = re.compile(r"(?<![\w.-])(\+|%2[Bb])?\d{9,15}(?![\w-])")
QUERY_STRING = re.compile(r"\?[^\s\"'<>]*=[^\s\"'<>]*")
URL_PASSWORD = re.compile(r"(?<=://)[^\s/@]+@")
SQL_PARAMETERS = re.compile(r"\[parameters: .*", re.DOTALL)
# Where PostgreSQL quotes the row or the value at fault.
SQL_DETAIL = re.compile(
    r"^(DETAIL|CONTEXT):  .*?(?=^\[SQL: |^The above exception|\Z)", re.DOTALL | re.MULTILINE
)
ACCEPTABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")


def configure_logging(level: str = "INFO", secrets: Iterable[str] = ()) -> None:
    """Sends every logger of this process through one JSON handler. Calling it again replaces that handler."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, JsonLinesHandler)]:
        root.removeHandler(handler)
    root.addHandler(JsonLinesHandler(secrets))
    root.setLevel(level)
    for name in BORROWED_LOGGERS:
        _take_over(logging.getLogger(name))
    for name in TALKATIVE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _take_over(logger: logging.Logger) -> None:
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def choose_request_id(offered: str | None = None) -> str:
    """Sets the request id of this context: the caller's own where it is a plain one, else a new one."""
    is_plain = offered is not None and ACCEPTABLE_REQUEST_ID.fullmatch(offered)
    # Not uuid4: reading the system's random bytes releases the interpreter's lock in every request.
    chosen = offered if offered and is_plain else f"{random.getrandbits(128):032x}"
    request_id.set(chosen)
    return chosen


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without secrets, query strings, passwords in URLs, SQL parameters and phone numbers."""
    for secret in secrets:
        text = text.replace(secret, MASKED)
    text = QUERY_STRING.sub("?" + MASKED, text)
    text = URL_PASSWORD.sub(MASKED + "@", text)
    text = SQL_PARAMETERS.sub(f"[parameters: {MASKED}]", text)
    text = SQL_DETAIL.sub(f"\\1:  {MASKED}\n", text)
    text = WRITTEN_NUMBER.sub(_last_digits, text)
    return PHONE_NUMBER.sub(_last_digits, text)


def mask_path(path: str) -> str:
    """A path as WSGI has it (bytes read as Latin-1), for the access log."""
    text = path.encode("latin-1", "replace").decode("utf-8", "replace")[:LONGEST_PATH]
    return NUMBER_IN_PATH.sub(_last_digits, text)


def _last_digits(found: re.Match[str]) -> str:
    return MASKED + found.group()[-3:]


class RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class JsonLinesFormatter(logging.Formatter):
    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # The longest first: one secret may be the beginning of another.
        self._secrets = sorted((s for s in secrets if len(s) >= SHORTEST_SECRET), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._clean(record.getMessage()),
        }
        line |= {name: self._clean(value) for name, value in vars(record).items() if _is_ours(name, value)}
        if record.exc_info and record.exc_info[1]:
            line["exception"] = self._clean("".join(traceback.format_exception(record.exc_info[1])))
        return CONTROLS.sub(_escaped, json.dumps(line, ensure_ascii=False))

    def _clean(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {str(key): self._clean(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(entry) for entry in value]
        return mask(str(value), self._secrets)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _is_ours(name: str, value: object) -> bool:
    return name not in STANDARD_FIELDS and not name.startswith("_") and value is not None


class JsonLinesHandler(logging.Handler):
    """Looks `sys.stderr` up for every line: kept from the start it would outlive a redirection."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.setFormatter(JsonLinesFormatter(secrets))
        self.addFilter(RequestIdFilter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, TypeError, ValueError):
            self.handleError(record)
