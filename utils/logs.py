"""Logs on standard error: ids and outcomes, never a number in full, a text or a secret. JSON lines, but for a person
at a terminal plain ones.

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

# In the environment of a WSGI request: what the access log says of it, beside its status. A dict.
ACCESS_NOTE = "sms.access_note"
AUTO, JSON, TEXT = "auto", "json", "text"

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
# Whether what is done here is a test key's: its message ids are those of another database.
is_of_test_key: ContextVar[bool] = ContextVar("is_of_test_key", default=False)

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
# Ids of ours, of AT and of callers are left whole: a hash or a random id often has nine digits in a row.
_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
PHONE_NUMBER = re.compile(
    rf"(?P<id>(?<![0-9A-Za-z])(?:{_UUID}|[0-9A-Fa-f]{{16,}})(?![0-9A-Za-z]))"
    # The digits of a fraction are none.
    r"|(?<!\d)(?<!\d\.)(?:\+|%2[Bb])?\d{9,15}(?!\d)"
)
QUERY_STRING = re.compile(r"\?[^\s\"'<>]*=[^\s\"'<>]*")
URL_PASSWORD = re.compile(r"(?<=://)[^\s/@]+@")
SQL_PARAMETERS = re.compile(r"\[parameters: .*", re.DOTALL)
# Where PostgreSQL quotes the row or the value at fault.
SQL_DETAIL = re.compile(
    r"^(DETAIL|CONTEXT):  .*?(?=^\[SQL: |^The above exception|\Z)", re.DOTALL | re.MULTILINE
)
# What would begin a second line, or recolour the first.
LINE_CONTROLS = re.compile("[\x00-\x1f]")
ACCEPTABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
RANDOM_ID = re.compile(rf"{_UUID}|[0-9A-Fa-f]{{32}}")
# A phone number has as many digits, whatever stands before and between them.
NUMBERS_DIGITS = 9


def configure_logging(level: str = "INFO", secrets: Iterable[str] = (), form: str = AUTO) -> None:
    """Sends every logger of this process through one handler. Calling it again replaces that handler."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, LogHandler)]:
        root.removeHandler(handler)
    root.addHandler(LogHandler(secrets, form))
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
    # It is stored with the messages and outlives their numbers: none may come in by it.
    is_plain = (
        offered is not None and ACCEPTABLE_REQUEST_ID.fullmatch(offered) and not _may_be_number(offered)
    )
    # Not uuid4: reading the system's random bytes releases the interpreter's lock in every request.
    chosen = offered if offered and is_plain else f"{random.getrandbits(128):032x}"
    request_id.set(chosen)
    return chosen


def _may_be_number(offered: str) -> bool:
    return not RANDOM_ID.fullmatch(offered) and sum(map(str.isdigit, offered)) >= NUMBERS_DIGITS


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without secrets, query strings, passwords in URLs, SQL parameters and phone numbers."""
    for secret in secrets:
        text = text.replace(secret, MASKED)
    text = QUERY_STRING.sub("?" + MASKED, text)
    text = URL_PASSWORD.sub(MASKED + "@", text)
    text = SQL_PARAMETERS.sub(f"[parameters: {MASKED}]", text)
    text = SQL_DETAIL.sub(f"\\1:  {MASKED}\n", text)
    text = WRITTEN_NUMBER.sub(_last_digits, text)
    return PHONE_NUMBER.sub(lambda found: found["id"] or _last_digits(found), text)


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
        if is_of_test_key.get():
            record.test = True
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
        line |= self._noted(record)
        exception = self._exception(record)
        if exception:
            line["exception"] = exception
        return CONTROLS.sub(_escaped, json.dumps(line, ensure_ascii=False))

    def _noted(self, record: logging.LogRecord) -> dict[str, Any]:
        return {name: self._clean(value) for name, value in vars(record).items() if _is_ours(name, value)}

    def _exception(self, record: logging.LogRecord) -> object:
        if not record.exc_info or not record.exc_info[1]:
            return None
        return self._clean("".join(traceback.format_exception(record.exc_info[1])))

    def _clean(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {str(key): self._clean(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(entry) for entry in value]
        return mask(str(value), self._secrets)


class PlainFormatter(JsonLinesFormatter):
    """The same for a person: local time, what happened, then the ids; a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        noted = [f"{name}={_shown(value)}" for name, value in self._noted(record).items()]
        lines = ["  ".join([f"{at:%H:%M:%S} {level}{self._clean(record.getMessage())}", *noted])]
        # Not splitlines: it breaks at controls, too.
        lines += str(self._exception(record) or "").rstrip("\n").split("\n")
        return "\n".join(_harmless(line) for line in lines if line)


def _harmless(line: str) -> str:
    return CONTROLS.sub(_escaped, LINE_CONTROLS.sub(_escaped, line))


def _shown(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _is_ours(name: str, value: object) -> bool:
    return name not in STANDARD_FIELDS and not name.startswith("_") and value is not None


class LogHandler(logging.Handler):
    """Looks `sys.stderr` up for every line: kept from the start it would outlive a redirection."""

    def __init__(self, secrets: Iterable[str] = (), form: str = AUTO) -> None:
        super().__init__()
        is_plain = form == TEXT or (form == AUTO and _is_at_terminal())
        self.setFormatter(PlainFormatter(secrets) if is_plain else JsonLinesFormatter(secrets))
        self.addFilter(RequestIdFilter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, TypeError, ValueError):
            self.handleError(record)


def _is_at_terminal() -> bool:
    # None where a program has no standard error at all; a closed one raises.
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False
