"""The settings as a value: names, types, defaults and what follows from them."""

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field

from utils import setting_types as types
from utils.errors import ServiceError
from utils.setting_types import REPOSITORY, join_host, sqlite_path

OFFLINE_SHORTCODE = "20880"
OFFLINE_ACCOUNT = "offline"
# What a setting says for "the text that is known without it".
AUTO = "auto"
LIVE_HOST = "https://api.africastalking.com"
SANDBOX_HOST = "https://api.sandbox.africastalking.com"
DEFAULT_SENDER = "AFRICASTKNG"  # AT's own choice where `from` is absent (docs/africastalking.md, 1a)
SANDBOX = "sandbox"
NO_PROVIDER = "AT_USERNAME is not set: set it and AT_API_KEY, or use `make run` for the offline simulator"

# On this machine, where the database is another one's.
WITNESS_OF_SERVER = "instance/witness"
TEST_KEYS_DATABASE_OF_SERVER = "instance/test-keys.db"

Known = dict[str, Any]


class SettingsError(ServiceError):
    """What is wrong with the settings. `problems`: one line each, naming the variable and what to do."""

    code = "invalid_settings"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def _default_shortcode(known: Known) -> str | None:
    return None if known["at_username"] else OFFLINE_SHORTCODE


def _default_base_url(known: Known) -> str | None:
    return None if known["at_username"] else f"http://127.0.0.1:{known['simulator_port']}"


def _default_queue(known: Known) -> str:
    # Named after the database, so that two databases in one folder do not share a queue.
    path = sqlite_path(known["database_url"])
    return f"sqlite:///{path.with_name(f'{path.stem}-queue.db')}" if path else known["database_url"]


def _default_witness_dir(known: Known) -> str:
    """Beside the database's file, never in it: whoever puts an old file back leaves this as it is."""
    path = sqlite_path(known["database_url"])
    return str(path.with_name(f"{path.stem}-witness") if path else WITNESS_OF_SERVER)


def _default_test_keys_database(known: Known) -> str:
    path = sqlite_path(known["database_url"])
    return f"sqlite:///{path.with_name(f'{path.stem}-test.db') if path else TEST_KEYS_DATABASE_OF_SERVER}"


def _default_web_concurrency(known: Known) -> int:
    return 1 if sqlite_path(known["database_url"]) else os.cpu_count() or 1


def _default_public_url(known: Known) -> str:
    return f"http://127.0.0.1:{known['port']}"


class Settings(BaseModel):
    """Every setting by its name in lower case. Secrets, and URLs that may hold one, stay out of the repr.

    A field whose default depends on others stands after them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    bind: types.Host = "127.0.0.1"
    port: types.Port = 8000
    simulator_port: types.Port = 8001
    public_url: types.PublicUrl = Field(default_factory=_default_public_url)

    at_username: types.Word | None = None
    at_api_key: types.Word | None = Field(default=None, repr=False)
    at_shortcode: types.Sender | None = Field(default_factory=_default_shortcode)
    at_sender_id: types.Sender | None = None
    at_base_url: types.Origin | None = Field(default_factory=_default_base_url)
    at_max_recipients: types.Count = 500
    at_timeout_seconds: types.Seconds = 60
    at_max_requests_per_second: types.Rate = 10
    at_max_messages_per_second: types.Rate = 500
    adopt_by_number: bool = True
    sender_classes: types.SenderClasses = Field(default_factory=dict)
    require_consent: bool = False
    daily_limit: types.Amount | None = None
    sender_daily_limits: types.SenderAmounts = Field(default_factory=dict)
    approval_above: types.Threshold | None = None
    unusual_factor: types.Factor | None = None
    sends_per_minute: types.CountOrOff = 60_000
    # `auto`: STOP to the shortcode.
    way_out_text: types.ShortWords = AUTO

    database_url: types.DatabaseUrl = Field(default="sqlite:///instance/sms.db", repr=False)
    queue_url: types.QueueUrl = Field(default_factory=_default_queue, repr=False)
    witness_dir: types.RepositoryPath = Field(default_factory=_default_witness_dir)
    witness_days: types.Count = 14
    test_keys_database_url: types.DatabaseUrl = Field(default_factory=_default_test_keys_database, repr=False)

    api_keys: types.Keys = Field(default=(), repr=False)
    webhook_tokens: types.Keys = Field(default=(), repr=False)
    dashboard_password: str | None = Field(default=None, repr=False)
    secret_key: str | None = Field(default=None, repr=False)

    default_region: types.Region | None = None
    time_zone: types.TimeZone = "UTC"
    reply_template: types.Template = 'This is a response to: "{text}"'
    replies_file: types.RepositoryPath = "replies.py"
    reply_timeout_seconds: types.Seconds = 30
    loop_limit: types.LoopLimit = 5
    loop_seconds: types.Seconds = 300
    replies_per_hour: types.ReplyLimit = 20
    replies_per_day: types.ReplyLimit = 60
    stop_scope: Literal["all", "sender"] = "all"
    stop_words: types.Words = ()
    start_words: types.Words = ()
    help_words: types.Words = ()
    join_words: types.Words = ()
    # `auto`: in the language of the word, from data/keywords.toml.
    stop_reply: types.Reply = AUTO
    start_reply: types.Reply = AUTO
    help_reply: types.Reply = AUTO
    join_reply: types.Reply = AUTO
    # What somebody agrees to who texts JOIN, for the ledger.
    join_purpose: types.ShortWords | None = None
    join_wording: types.Reply | None = None
    join_wording_version: types.ShortWords | None = None
    forward_url: types.WebUrl | None = Field(default=None, repr=False)
    forward_secret: types.WebhookSecrets | None = Field(default=None, repr=False)
    forward_allow_private: bool = False
    retention_days: types.Count = 90

    web_concurrency: types.Count = Field(default_factory=_default_web_concurrency)
    web_threads: types.WebThreads = 16
    worker_concurrency: types.Count = 4
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], types.UpperCase] = "INFO"
    log_format: Literal["auto", "json", "text"] = "auto"
    trusted_proxies: types.Networks = ()

    @property
    def is_offline(self) -> bool:
        return self.at_username is None

    @property
    def reply_notice(self) -> str | None:
        """What each text that comes will cost, where nobody has decided that; else None."""
        if self.at_username in (None, SANDBOX) or "reply_template" in self.model_fields_set:
            return None
        return (
            f"REPLY_TEMPLATE is not set: each text that nothing else answers is answered with {self.reply_template!r},"
            " which is charged; set it to your own words, or leave it empty to answer nothing"
        )

    @property
    def provider_host(self) -> str:
        """scheme://host[:port] of the API that gets `/version1/…`."""
        if self.at_base_url:
            return self.at_base_url
        return SANDBOX_HOST if self.at_username == SANDBOX else LIVE_HOST

    @property
    def provider_username(self) -> str:
        """The account the service serves; offline a name that only the simulator takes."""
        return self.at_username or OFFLINE_ACCOUNT

    @property
    def provider_api_key(self) -> str:
        return self.at_api_key or OFFLINE_ACCOUNT

    @property
    def effective_sender_id(self) -> str:
        return self.at_sender_id or DEFAULT_SENDER

    @property
    def way_out(self) -> str:
        """What promotional texts say of how to end them; empty: nothing."""
        if self.way_out_text != AUTO:
            return self.way_out_text
        number = self.at_shortcode or ""
        return f"STOP to {number}" if number.lstrip("+").isdecimal() else ""

    @property
    def database_is_sqlite(self) -> bool:
        return sqlite_path(self.database_url) is not None

    @property
    def sqlalchemy_url(self) -> str:
        """`database_url` with the driver SQLAlchemy is to take."""
        return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def own_folder(self) -> Path:
        """For files beside the database: the folder of a SQLite one."""
        path = sqlite_path(self.database_url)
        return path.parent if path else REPOSITORY / "instance"

    @property
    def simulator_database(self) -> Path:
        """Where the simulator keeps its phones."""
        return self.own_folder / "simulator.db"

    @property
    def secret_key_file(self) -> Path:
        """Offline, where SECRET_KEY is not set."""
        return self.own_folder / "secret-key"

    @property
    def service_url(self) -> str:
        """Where this machine reaches the web process; `public_url` is what others are told."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind, self.bind)  # noqa: S104
        return f"http://{join_host(host, self.port)}"

    @property
    def simulator_url(self) -> str:
        return f"http://127.0.0.1:{self.simulator_port}"

    @property
    def callback_urls(self) -> dict[str, str]:
        """The URLs to paste at AT, by route name. The first token is the one that is handed out."""
        query = f"?{urlencode({'token': self.webhook_tokens[0]})}" if self.webhook_tokens else ""
        names = ("twoway", "delivery-reports", "opt-out", "subscription")
        return {name: f"{self.public_url}/sms/{name}{query}" for name in names}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret value, for the log to blot out."""
        single = (self.at_api_key, self.dashboard_password, self.secret_key)
        lists = (self.api_keys, self.webhook_tokens, self.forward_secret or ())
        return (*filter(None, single), *chain.from_iterable(lists))

    def require_provider(self) -> None:
        """Raises SettingsError where nobody said which provider to use; `make run` names the simulator."""
        if self.is_offline and "at_base_url" not in self.model_fields_set:
            raise SettingsError([NO_PROVIDER])
