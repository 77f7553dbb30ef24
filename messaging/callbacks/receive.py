"""AT's callbacks: what their fields are called, and the way in, which returns when a callback is durable.

| kind           | AT's fields (docs/africastalking.md, 4)                                       |
|----------------|-------------------------------------------------------------------------------|
| `inbound`      | `from`, `to`, `text`, `id`; optional `date`, `linkId`, `networkCode`, `cost`  |
| `report`       | `id`, `status`; optional `phoneNumber`, `failureReason`, `networkCode`, `retryCount` |
| `opt_out`      | `phoneNumber`; `senderId`, without which it counts for all senders            |
| `subscription` | `phoneNumber`; `shortCode`, `keyword`, `updateType`                           |

AT repeats a callback every minute until it gets a 200, so a body that cannot be used is kept as
`quarantined` and not refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import parse_qsl

from sqlalchemy.exc import SQLAlchemyError

from messaging.callbacks import journal
from messaging.callbacks.apply import Callback, Content, OptOut, Subscription, apply_group, is_for_worker
from messaging.consent import ledger
from messaging.conversations.receive import InboundText
from messaging.reports.message_state import DeliveryReport
from messaging.storage.commit_thread import CommitThread
from messaging.storage.database import Database
from utils import sender_ids
from utils.callback_phones import read_callback_phone
from utils.errors import StorageUnavailable
from utils.settings import Settings

# What a caller keeps of a longer body, with `truncated=True`. AT's longest is a text of a few parts.
LARGEST_BODY_BYTES = 256 * 1024
TRUNCATED = "the body is longer than any of AT's and was cut"
MOST_FIELDS = 100
LONGEST_ID = 200
LONGEST_WORD = 64
LONGEST_PHONE = 64
LONGEST_CONTENT_TYPE = 200
# A field that is only shown is cut; the journal has all of it. More than any limit that refuses.
LONGEST_OPTIONAL = 500
NUMBERS = frozenset({"from", "to", "phoneNumber", "senderId"})

logger = logging.getLogger(__name__)


class Unusable(Exception):
    """Why a body cannot be applied, in words for the journal. It holds no value of a field."""


class CallbackReceiver:
    """Everything that AT posts to us, in commits shared by all who post at the same moment."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._default_region = settings.default_region
        apply = partial(apply_group, settings)
        self._commits: CommitThread[Callback, None] = CommitThread(
            database, apply, partial(apply, with_care=True), name="inbox"
        )

    def receive(
        self, kind: str, body: bytes, content_type: str | None = None, *, truncated: bool = False
    ) -> None:
        """Returns when the body is durable, whatever it holds. `truncated`: there was more of it.

        Raises StorageUnavailable when nothing may have been stored; the same body may then be given again.
        """
        try:
            read = read_callback(kind, body, content_type, self._default_region, truncated=truncated)
            self._commits.submit(read)
        except (SQLAlchemyError, OSError) as error:
            raise StorageUnavailable from error

    def start(self) -> None:
        self._commits.start()

    def is_alive(self) -> bool:
        return self._commits.is_alive()

    def stop(self) -> None:
        self._commits.stop()


def read_callback(
    kind: str,
    body: bytes,
    content_type: str | None = None,
    default_region: str | None = None,
    *,
    truncated: bool = False,
) -> Callback:
    """Raises nothing that depends on the body; ValueError for a kind that AT does not have."""
    if kind not in _READERS:
        raise ValueError(f"{kind} is not a kind of callback")
    digest = journal.digest_of(kind, body)
    label = None if content_type is None else _clean(content_type[:LONGEST_CONTENT_TYPE])
    try:
        content = read_content(kind, body, default_region, truncated=truncated)
    except Unusable as error:
        logger.warning("a callback is quarantined", extra={"kind": kind, "why": str(error)})
        return Callback(journal.Arrival(kind, body, label, digest, journal.QUARANTINED, str(error)), None)
    outcome = journal.RECEIVED if is_for_worker(content) else journal.APPLIED
    return Callback(journal.Arrival(kind, body, label, digest, outcome, None), content)


def read_content(
    kind: str, body: bytes, default_region: str | None = None, *, truncated: bool = False
) -> Content:
    """What a body says. The content type is not asked: AT's varies, and only a form has our fields.

    Raises Unusable.
    """
    if truncated:
        raise Unusable(TRUNCATED)
    # What is not UTF-8 becomes U+FFFD, in the text as in the rest; the journal keeps the bytes.
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise Unusable("the body has too many fields") from error
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return _READERS[kind](fields, default_region)


def _read_report(fields: Mapping[str, str], default_region: str | None) -> DeliveryReport:
    provider_message_id = _needed(fields, "id", LONGEST_ID)
    # AT writes the word None where a recipient was refused: never an id.
    if provider_message_id == "None":
        raise Unusable("the field id says None")
    phone = _optional(fields, "phoneNumber")
    return DeliveryReport(
        provider_message_id,
        _needed(fields, "status", LONGEST_WORD),
        phone and next(iter(read_callback_phone(phone, default_region)), phone[:LONGEST_PHONE]),
        _optional(fields, "failureReason"),
        _optional(fields, "networkCode"),
        _optional(fields, "retryCount"),
    )


def _read_inbound(fields: Mapping[str, str], default_region: str | None) -> InboundText:
    if "text" not in fields:
        raise Unusable("the field text is missing")
    sender = _needed(fields, "from", LONGEST_PHONE)
    readings = read_callback_phone(sender, default_region)
    return InboundText(
        _needed(fields, "id", LONGEST_ID),
        readings[0] if readings else sender,
        _needed(fields, "to", sender_ids.LONGEST_SENDER_ID),
        _clean(fields["text"]),
        _optional(fields, "linkId"),
        _optional(fields, "networkCode"),
        _optional(fields, "cost"),
        _optional(fields, "date"),
        other_readings=readings[1:],
    )


def _read_opt_out(fields: Mapping[str, str], default_region: str | None) -> OptOut:
    sender_id = _optional(fields, "senderId")
    if sender_id is not None and len(sender_id) > sender_ids.LONGEST_SENDER_ID:
        raise Unusable("the field senderId is too long")
    phone = _needed(fields, "phoneNumber", LONGEST_PHONE)
    readings = read_callback_phone(phone, default_region)
    if not readings and len(phone) > ledger.LONGEST_PHONE:
        raise Unusable("the field phoneNumber holds no phone number")
    return OptOut(readings or (ledger.name_of_no_number(phone),), sender_id)


def _read_subscription(fields: Mapping[str, str], _default_region: str | None) -> Subscription:
    _needed(fields, "updateType", LONGEST_WORD)
    return Subscription(_needed(fields, "phoneNumber", LONGEST_PHONE))


FETCHED = "fetched"
_READERS: dict[str, Callable[[Mapping[str, str], str | None], Content]] = {
    "inbound": _read_inbound,
    "report": _read_report,
    "opt_out": _read_opt_out,
    "subscription": _read_subscription,
    # Not a callback: what `messaging.callbacks.fetch_inbound` found in AT's inbox, written as one.
    FETCHED: _read_inbound,
}
KINDS = tuple(_READERS)


def _needed(fields: Mapping[str, str], name: str, longest: int) -> str:
    value = _optional(fields, name)
    if value is None:
        raise Unusable(f"the field {name} is missing")
    if len(value) > longest:
        raise Unusable(f"the field {name} is too long")
    return value


def _optional(fields: Mapping[str, str], name: str) -> str | None:
    value = _clean(fields.get(name, ""))[:LONGEST_OPTIONAL]
    # A plus that was not escaped reads as a space in a form.
    if name in NUMBERS and value[:1] == " " and value[1:2].isdigit():
        return f"+{value.strip()}"
    return value.strip() or None


def _clean(text: str) -> str:
    """PostgreSQL stores every character but NUL."""
    return text.replace("\0", "\ufffd")
