"""A request to send, made into rows: recipients read and deduplicated, refused ones named, all in one commit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from messaging.access.actor import acting_name
from messaging.costs.brakes import Brake, asks_for_money, find_brake
from messaging.costs.prices import Going, estimate
from messaging.messages import idempotency
from messaging.messages.lost_texts import digest_of_call
from messaging.messages.queue import BATCH_PRIORITY, SINGLE_PRIORITY, NewMessage, enqueue
from messaging.messages.warnings import DOUBTFUL_NUMBER, Warnings, left_over, warn_of_left_over
from messaging.messages.way_out import WayOut
from messaging.storage import rollback, tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids
from utils.errors import EmptyMessage, InvalidInput, InvalidPhone, NoRecipients
from utils.logs import request_id
from utils.phone_numbers import read_phone
from utils.references import read_reference
from utils.segments import measure
from utils.sender_ids import validate_sender
from utils.settings import Settings
from utils.texts import LONGEST_TEXT, is_blank, is_text

ROUTE = "messages"
MOST_RECIPIENTS = 10_000
# A handful of texts is somebody waiting; more is a campaign, which singles and replies overtake.
MOST_URGENT = 10
# Clocks differ, and a request may have waited. Longer ago is a slip, and would send a campaign now.
LATEST_PAST = timedelta(minutes=5)
FURTHEST = timedelta(days=366)
# A connection, phones and a sender id: those of the phones that must not be texted.
FindBlocked = Callable[[Connection, Sequence[str], str | None], Collection[str]]
ON_UNKNOWN = ("hold", "resend", "fail")


class NobodyAccepted(InvalidInput):
    """Every recipient was refused; `details["refused"]` says why."""

    code = "no_valid_recipients"
    sentence = "None of the recipients can be used"


@dataclass(frozen=True, slots=True)
class SendRequest:
    """As a caller gave it. `to`: phone numbers as typed. Times are aware."""

    to: Sequence[str]
    text: str
    sender_id: str | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    on_unknown: str = "hold"
    origin: str = "api"
    reference: str | None = None

    def as_json(self) -> list[Any]:
        times = [None if at is None else at.isoformat() for at in (self.send_at, self.expires_at)]
        # Only where there is one: a key that was used before this release stays good.
        chosen = [] if self.reference is None else [f"reference {self.reference}"]
        return [list(self.to), self.text, self.sender_id, *times, self.on_unknown, *chosen]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """`body`: the answer in the contract's shape. `is_replay`: an earlier call with this key made it."""

    body: dict[str, Any]
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class _Recipients:
    phones: list[str]
    refused: list[dict[str, str]]
    duplicates: int
    warnings: Warnings


def accept(
    settings: Settings,
    database: Database,
    request: SendRequest,
    idempotency_key: str | None = None,
    find_blocked: FindBlocked = lambda _connection, _phones, _sender_id: frozenset(),
) -> Acceptance:
    """Everything or nothing, durable when it returns.

    `find_blocked`: the ledger's `suppressed`, for an answer that names who opted out. They are queued all the
    same: what counts is the moment of the POST.

    Raises InvalidInput (EmptyMessage, NoRecipients, NobodyAccepted …), KeyReused, Recovering.
    """
    _validate(request)
    recipients = _read(request.to, settings.default_region)
    warn_of_left_over(recipients.warnings, left_over(request.text))
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        identity = rollback.require(connection, now)
        if idempotency_key is not None:
            mark = idempotency.fingerprint(request.as_json())
            earlier = idempotency.begin(connection, ROUTE, idempotency_key, mark, now)
            if earlier is not None and earlier.answer is not None:
                return Acceptance(earlier.answer, is_replay=True)
        # Not before: an answer is given again also when its times have come.
        validate_times(request.send_at, request.expires_at, now)
        call = None if idempotency_key is None else digest_of_call(identity, ROUTE, idempotency_key)
        body = _write(settings, connection, request, recipients, now, call, find_blocked)
        if idempotency_key is not None:
            idempotency.finish(connection, ROUTE, idempotency_key, body)
    return Acceptance(body)


def _validate(request: SendRequest) -> None:
    validate_text(request.text)
    if not request.to:
        raise NoRecipients(field="to")
    if len(request.to) > MOST_RECIPIENTS:
        raise InvalidInput(
            f"At most {MOST_RECIPIENTS} recipients in one call: upload a batch instead",
            code="too_many_recipients",
            field="to",
        )
    validate_on_unknown(request.on_unknown)
    validate_sender(request.sender_id)
    read_reference(request.reference)


def validate_text(text: str, field: str = "text") -> None:
    """As a person wrote it, with placeholders or without. Raises EmptyMessage, InvalidInput."""
    if is_blank(text):
        raise EmptyMessage(field=field)
    if len(text) > LONGEST_TEXT:
        raise InvalidInput(
            f"The text has {len(text)} characters; at most {LONGEST_TEXT} can be sent",
            code="text_too_long",
            field=field,
        )
    if not is_text(text):
        raise InvalidInput("The text holds a character that no phone can show", field=field)


def validate_on_unknown(on_unknown: str) -> None:
    if on_unknown not in ON_UNKNOWN:
        raise InvalidInput(f"on_unknown is one of {', '.join(ON_UNKNOWN)}", field="on_unknown")


def validate_times(send_at: datetime | None, expires_at: datetime | None, now: datetime) -> None:
    if send_at is not None and send_at < now - LATEST_PAST:
        raise InvalidInput(
            "send_at is in the past: leave it out to send now", code="send_at_in_past", field="send_at"
        )
    if send_at is not None and send_at > now + FURTHEST:
        raise InvalidInput("send_at is more than a year away", code="invalid_time", field="send_at")
    if expires_at is not None and expires_at <= max(now, send_at or now):
        raise InvalidInput(
            "expires_at must lie after now and after send_at", code="invalid_time", field="expires_at"
        )


def _read(to: Sequence[str], default_region: str | None) -> _Recipients:
    seen: dict[str, None] = {}
    refused: list[dict[str, str]] = []
    duplicates, warnings = 0, Warnings()
    for typed in to:
        try:
            phone, doubt, _region = read_phone(typed, default_region)
        except InvalidPhone as error:
            refused.append({"to": typed, "code": error.code, "message": error.message})
            continue
        if phone in seen:
            duplicates += 1
        elif doubt:
            warnings.add(DOUBTFUL_NUMBER, doubt, to=phone)
        seen[phone] = None
    if not seen:
        raise (
            NobodyAccepted(field="to", details={"refused": refused})
            if len(to) > 1
            else InvalidPhone(refused[0]["message"], code=refused[0]["code"], field="to")
        )
    return _Recipients(list(seen), refused, duplicates, warnings)


def _write(
    settings: Settings,
    connection: Connection,
    request: SendRequest,
    recipients: _Recipients,
    now: datetime,
    call: str | None,
    find_blocked: FindBlocked,
) -> dict[str, Any]:
    sender_id = request.sender_id or settings.at_sender_id
    text = WayOut.of(settings, sender_id).composed(request.text)
    parts, reference = measure(text).parts, read_reference(request.reference)
    brake = _brake(settings, connection, recipients.phones, sender_id, parts, now)
    batch_id = _write_batch(connection, request, recipients, sender_id, now, call, brake)
    priority = SINGLE_PRIORITY if len(recipients.phones) <= MOST_URGENT else BATCH_PRIORITY
    new = [
        NewMessage(
            phone,
            text,
            sender_id,
            origin=request.origin,
            priority=priority,
            on_unknown=request.on_unknown,
            due_at=request.send_at,
            expires_at=request.expires_at,
            batch_id=batch_id,
            estimated_parts=parts,
            reference=reference,
        )
        for phone in recipients.phones
    ]
    ids = enqueue(connection, new)
    suppressed = find_blocked(connection, recipients.phones, sender_id)
    return {
        "batch_id": batch_id,
        "accepted": len(new),
        "refused": recipients.refused,
        "duplicates": recipients.duplicates,
        "blocked": [phone for phone in recipients.phones if phone in suppressed],
        **({} if brake is None else {"paused": brake.reason}),
        **recipients.warnings.in_json(),
        "messages": [
            {"id": message_id, "to": phone, "status": "queued"}
            for message_id, phone in zip(ids, recipients.phones, strict=True)
        ],
    }


def _brake(
    settings: Settings,
    connection: Connection,
    phones: Sequence[str],
    sender_id: str | None,
    parts: int,
    now: datetime,
) -> Brake | None:
    costs = None
    if asks_for_money(settings):
        costs = estimate(connection, sender_id, (Going(phone, 1, parts) for phone in phones))
    return find_brake(settings, connection, now, len(phones), costs)


def _write_batch(
    connection: Connection,
    request: SendRequest,
    recipients: _Recipients,
    sender_id: str | None,
    now: datetime,
    call: str | None,
    brake: Brake | None,
) -> int:
    batch_id = reserve_ids(connection, tables.batches, 1)[0]
    row = {
        "id": batch_id,
        "status": "scheduled" if request.send_at and request.send_at > now else "sending",
        "sender_id": sender_id,
        "send_at": request.send_at,
        "expires_at": request.expires_at,
        "total": len(recipients.phones),
        "refused": len(recipients.refused),
        "duplicates": recipients.duplicates,
        "warnings": recipients.warnings.as_stored(),
        "created_at": now,
        "created_by": acting_name(),
        "call": call,
        "request_id": request_id.get(),
    }
    if brake is not None:
        row |= {"status": "paused", **brake._asdict()}
    connection.execute(insert(tables.batches).values(**row))
    return batch_id
