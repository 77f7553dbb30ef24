"""Everything that can be set, read once. This is the only module that looks at the environment.

    load_settings()                      for the service: app, worker, commands
    load_settings(for_service=False)     for a bare script: no keys or tokens are asked for

A `.env` file in the repository root is read too; the real environment wins, name by name. An empty value
counts as unset, but for texts (`REPLY_TEMPLATE`, `STOP_REPLY`, `WAY_OUT_TEXT` …), which it turns off.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream
from pydantic import ValidationError

from utils.setting_types import REPOSITORY, is_loopback
from utils.settings_model import SANDBOX, Settings, SettingsError
from utils.webhook_signing import WANTED as WANTED_SECRET

__all__ = ["Settings", "SettingsError", "child_environment", "load_settings"]

DOTENV = REPOSITORY / ".env"
MAY_BE_EMPTY = frozenset(
    {"reply_template", "stop_reply", "start_reply", "help_reply", "join_reply", "way_out_text"}
)
NEEDED_WITH_AN_ACCOUNT = {
    "at_api_key": "the API key of the Africa's Talking app",
    "api_keys": "a long random key for those who may send (several: separated by commas)",
    "webhook_tokens": "a long random token for the callback URLs (several: separated by commas)",
    "dashboard_password": "the password of the dashboard",
    "secret_key": "a long random text that signs the dashboard's cookies",
}
LISTS = ("api_keys", "webhook_tokens")
GUESSABLE = (*LISTS, "dashboard_password", "secret_key")
SHORTEST_SECRET = 16
WANTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "one of {expected}",
}
# Desktops set AT_SPI_BUS_ADDRESS (accessibility); every other AT_ name is taken for a misspelt one of ours.
OWN_PREFIX, FOREIGN_PREFIX = "AT_", "AT_SPI_"


def load_settings(
    environment: Mapping[str, str] | None = None,
    dotenv_path: Path | None = None,
    *,
    for_service: bool = True,
) -> Settings:
    """The settings, from `environment` and `dotenv_path` where given, else from the process and `.env`.

    `for_service=False` leaves out what only a running service needs. Raises SettingsError with every
    problem found, not only the first.
    """
    if environment is None:
        environment, dotenv_path = os.environ, dotenv_path or DOTENV
    from_file, problems = _read_dotenv(dotenv_path)
    merged = {**from_file, **environment}
    texts = {name: merged[name.upper()].strip() for name in Settings.model_fields if name.upper() in merged}
    texts = {name: text for name, text in texts.items() if text or name in MAY_BE_EMPTY}
    problems += _find_unknown(from_file, environment)
    if for_service:
        problems += _find_missing(texts)
        problems += _find_guessable(texts)
        problems += _find_exposed(texts)
    try:
        settings = Settings.model_validate(texts)
    except ValidationError as error:
        problems += _describe(error, texts)
    else:
        problems += _find_shared(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def child_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for one it starts, with `overrides` in place."""
    return {**os.environ, **overrides}


def _read_dotenv(path: Path | None) -> tuple[dict[str, str], list[str]]:
    if path is None or not path.exists():
        return {}, []
    try:
        with path.open(encoding="utf-8") as lines:
            bad = [binding.original.line for binding in parse_stream(lines) if _is_unreadable(binding)]
        values = {} if bad else dotenv_values(path)
    except (OSError, UnicodeDecodeError):
        return {}, [f"{path.name} cannot be read: make it a text file in UTF-8 that this user may read"]
    problems = [f"{path.name} line {line} cannot be read: write NAME=value" for line in bad]
    return {name: value for name, value in values.items() if value is not None}, problems


def _is_unreadable(binding: Binding) -> bool:
    return binding.error or (binding.key is not None and binding.value is None)


def _find_unknown(from_file: Iterable[str], environment: Iterable[str]) -> list[str]:
    own = (
        name for name in environment if name.startswith(OWN_PREFIX) and not name.startswith(FOREIGN_PREFIX)
    )
    known = [name.upper() for name in Settings.model_fields]
    return [
        _explain_unknown(name, known)
        for name in {**dict.fromkeys(from_file), **dict.fromkeys(own)}
        if name not in known
    ]


def _explain_unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name.upper(), known, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else "remove it"
    return f"{name} is not a setting: {advice}"


def _find_missing(texts: Mapping[str, str]) -> list[str]:
    problems = []
    if "at_username" in texts:
        problems += [
            f"{name.upper()} is not set: AT_USERNAME is, so set it to {what}"
            for name, what in NEEDED_WITH_AN_ACCOUNT.items()
            if name not in texts
        ]
    elif "at_api_key" in texts:
        problems.append(
            "AT_USERNAME is not set, but AT_API_KEY is: set both, or neither for the offline simulator"
        )
    if "forward_url" in texts and "forward_secret" not in texts:
        problems.append(f"FORWARD_SECRET is not set: FORWARD_URL is, so set it to {WANTED_SECRET}")
    return problems


def _find_guessable(texts: Mapping[str, str]) -> list[str]:
    """On a live account. AT's sandbox, whose user name is its own, spends no money."""
    if texts.get("at_username", SANDBOX) == SANDBOX:
        return []
    return [
        f"{name.upper()} has {'an entry' if name in LISTS else 'a value'} of fewer than {SHORTEST_SECRET}"
        " characters: make it long and random"
        for name in GUESSABLE
        if any(len(one.strip()) < SHORTEST_SECRET for one in _entries(name, texts))
    ]


def _entries(name: str, texts: Mapping[str, str]) -> list[str]:
    text = texts.get(name)
    if text is None:
        return []
    return [one for one in text.split(",") if one.strip()] if name in LISTS else [text]


def _find_exposed(texts: Mapping[str, str]) -> list[str]:
    """Offline the service runs open, so nothing of it may face a network."""
    if "at_username" in texts:
        return []
    problems = []
    bind, base_url = texts.get("bind"), texts.get("at_base_url")
    if bind and not is_loopback(bind):
        problems.append(f"BIND is {bind}, but AT_USERNAME is not set and offline all is open: use 127.0.0.1")
    if base_url and not is_loopback(_host_of(base_url)):
        problems.append(
            "AT_BASE_URL is not on this machine, but AT_USERNAME is not set: set it and AT_API_KEY"
        )
    return problems


def _find_shared(settings: Settings) -> Iterator[str]:
    """Said here, and not by the database itself, which the first of the two to come would take."""
    if settings.test_keys_database_url == settings.database_url:
        yield "TEST_KEYS_DATABASE_URL is DATABASE_URL: test keys need a database of their own"


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _describe(error: ValidationError, texts: Mapping[str, str]) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        name, context = str(detail["loc"][0]), detail.get("ctx", {})
        if detail["type"] == "default_factory_not_called":  # another field's fault, which has its own line
            continue
        template = "{error}" if detail["type"] == "value_error" else WANTED.get(detail["type"], detail["msg"])
        may_show = Settings.model_fields[name].repr and "@" not in texts.get(name, "@")
        shown = f", not {texts[name]!r}" if may_show else ""
        yield f"{name.upper()} must be {template.format(**context)}{shown}"
