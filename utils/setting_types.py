"""How one setting's text becomes a value. A validator's ValueError ends the sentence "NAME must be …"."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, BeforeValidator, Field

from utils import webhook_signing
from utils.money import Money, read_amount

REPOSITORY = Path(__file__).resolve().parent.parent
PLACEHOLDER = re.compile(r"\{(\w*)\}")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
LONGEST_KEYWORD = 64
LONGEST_REPLY = 1600
LONGEST_SHORT_WORDS = 100
# Also for `sender_id` in the API: what may be set may be asked for.
SENDER_PATTERN = r"\+?\w[\w .&'-]{0,14}"
SENDER_CLASSES = ("promotional", "transactional")
POSTGRESQL_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


def is_loopback(host: str) -> bool:
    """Names are not looked up: a resolver's answer may change after the check, so only `localhost` counts."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def join_host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def sqlite_path(url: str) -> Path | None:
    """The file of a `sqlite:///` URL, None for any other URL."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def _split_url(value: str, wanted: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    return parts


def _check_web_url(value: str) -> str:
    wanted = "a URL like https://sms.example.org"
    parts = _split_url(value, wanted)
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", value):
        raise ValueError(wanted)
    return value


def _check_origin(value: str) -> str:
    wanted = "scheme://host or scheme://host:port and nothing after it, like https://api.example.org"
    parts = _split_url(_check_web_url(value.rstrip("/")), wanted)
    if "@" in parts.netloc or parts.path or parts.query or parts.fragment:
        raise ValueError(wanted)
    return value.rstrip("/")


def _check_public_url(value: str) -> str:
    parts = _split_url(_check_web_url(value.rstrip("/")), "")
    if parts.query or parts.fragment:
        raise ValueError("a URL without ? and #: the callback paths are added to it")
    return value.rstrip("/")


def _check_sqlite(value: str) -> str:
    name = value.removeprefix("sqlite:///")
    if name in {value, "", ":memory:"} or "?" in name:
        raise ValueError("sqlite:///path/to/file.db: a file, for nothing in memory survives a stop")
    return f"sqlite:///{REPOSITORY / name}"


def _check_database_url(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme == "sqlite":
        return _check_sqlite(value)
    wanted = "sqlite:///… or postgresql://…"
    if scheme in POSTGRESQL_SCHEMES and rest:
        # A driver that cannot read it would quote it, with the password.
        _split_url(value, wanted)
        return f"postgresql://{rest}"
    raise ValueError(wanted)


def _check_queue_url(value: str) -> str:
    scheme, _, rest = value.partition("://")
    wanted = "sqlite:///…, postgresql://… or redis://…"
    if scheme in {"redis", "rediss"} and rest:
        _split_url(value, wanted)
        return value
    if scheme in {"sqlite", *POSTGRESQL_SCHEMES}:
        return _check_database_url(value)
    raise ValueError(wanted)


def _check_region(value: str) -> str:
    if value.upper() not in SUPPORTED_REGIONS:
        raise ValueError("two letters of a country, like KE")
    return value.upper()


def _check_zone(value: str) -> str:
    try:
        return ZoneInfo(value).key
    except (LookupError, ValueError, OSError):
        raise ValueError("the name of a time zone, like Africa/Nairobi") from None


def _check_template(value: str) -> str:
    unknown = set(PLACEHOLDER.findall(value)) - {"text"}
    if unknown:
        raise ValueError("a text whose only placeholder is {text}")
    return value


def _check_host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value.strip("[]")))
    except ValueError:
        if HOST_NAME.fullmatch(value) and not re.fullmatch(r"[\d.]+", value):
            return value
        raise ValueError("an address to listen on, like 127.0.0.1") from None


def _split_commas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    entries = tuple(dict.fromkeys(entry.strip() for entry in value.split(",") if entry.strip()))
    if not entries:
        raise ValueError("a list with at least one entry between its commas")
    return entries


def _check_keys(value: tuple[str, ...]) -> tuple[str, ...]:
    # They travel in headers and query strings.
    if not all(re.fullmatch(r"[!-~]+", entry) for entry in value):
        raise ValueError("a comma list of keys in ASCII without spaces")
    return value


def _check_words(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(len(entry) <= LONGEST_KEYWORD and re.search(r"[^\W_]", entry) for entry in value):
        raise ValueError(f"a comma list of words of at most {LONGEST_KEYWORD} characters")
    return value


def _check_reply(value: str) -> str:
    if len(value) > LONGEST_REPLY or "\0" in value:
        raise ValueError(f"a text of at most {LONGEST_REPLY} characters")
    return value


def _check_short_words(value: str) -> str:
    if len(value) > LONGEST_SHORT_WORDS or "\0" in value:
        raise ValueError(f"a text of at most {LONGEST_SHORT_WORDS} characters")
    return value


def _check_path(value: str) -> str:
    return str(REPOSITORY / value)


def _check_webhook_secrets(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        try:
            webhook_signing.read_secret(entry)
        except ValueError as error:
            raise ValueError(f"a comma list of secrets, each {error}") from None
    return value


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(entry)) for entry in value)
    except ValueError:
        raise ValueError("a comma list of addresses or networks, like 10.0.0.0/8") from None


def _split_classes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [entry.rpartition("=") for entry in _split_commas(value)]
    if not all(sender.strip() and name.strip() in SENDER_CLASSES for sender, _, name in pairs):
        raise ValueError("a comma list like ACME=promotional,20880=transactional")
    return {sender.strip(): name.strip() for sender, _, name in pairs}


def _read_amount(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = read_amount(value)
    if found is None:
        raise ValueError("an amount above 0 behind its currency, like KES 5000")
    return found


def _read_threshold(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    try:
        return _read_amount(value)
    except ValueError:
        raise ValueError("a number of recipients, like 500, or an amount, like KES 2000") from None


def _split_amounts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    wanted = "a comma list like NEWS=KES 2000,20880=KES 500"
    pairs = [entry.rpartition("=") for entry in _split_commas(value)]
    if not all(re.fullmatch(SENDER_PATTERN, sender.strip()) for sender, _, _ in pairs):
        raise ValueError(wanted)
    try:
        return {sender.strip(): _read_amount(amount.strip()) for sender, _, amount in pairs}
    except ValueError:
        raise ValueError(wanted) from None


def _matching(pattern: str, wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(wanted)
        return value

    return AfterValidator(check)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Word = Annotated[str, _matching(r"[!-~]+", "one word in ASCII without spaces")]
Sender = Annotated[str, _matching(SENDER_PATTERN, "a shortcode or a name of at most 15 characters")]
WebUrl = Annotated[str, AfterValidator(_check_web_url)]
Origin = Annotated[str, AfterValidator(_check_origin)]
PublicUrl = Annotated[str, AfterValidator(_check_public_url)]
DatabaseUrl = Annotated[str, AfterValidator(_check_database_url)]
QueueUrl = Annotated[str, AfterValidator(_check_queue_url)]
Region = Annotated[str, AfterValidator(_check_region)]
TimeZone = Annotated[str, AfterValidator(_check_zone)]
Template = Annotated[str, AfterValidator(_check_template)]
Host = Annotated[str, AfterValidator(_check_host)]
Keys = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_keys)]
SenderClasses = Annotated[dict[str, str], BeforeValidator(_split_classes)]
Amount = Annotated[Money, BeforeValidator(_read_amount)]
SenderAmounts = Annotated[dict[str, Money], BeforeValidator(_split_amounts)]
Threshold = Annotated[int | Money, BeforeValidator(_read_threshold)]
Factor = Annotated[float, Field(ge=1, le=1_000_000, allow_inf_nan=False)]
Networks = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_networks)]
WebhookSecrets = Annotated[
    tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_webhook_secrets)
]
Words = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_words)]
Reply = Annotated[str, AfterValidator(_check_reply)]
ShortWords = Annotated[str, AfterValidator(_check_short_words)]
RepositoryPath = Annotated[str, AfterValidator(_check_path)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrOff = Annotated[int, Field(ge=0, le=1_000_000)]
# Two at least: GET triggers may hold half of them.
WebThreads = Annotated[int, Field(ge=2, le=1_000)]
# Equal texts are counted among the latest two hundred to a number.
LoopLimit = Annotated[int, Field(ge=1, le=100)]
ReplyLimit = Annotated[int, Field(ge=1, le=500)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
UpperCase = BeforeValidator(_upper)
