"""Taking a send: decide every recipient, write it all in one commit, and only then have something to answer."""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MultiDict

from .answers import recipient_entry, send_summary
from .outcomes import BLACKLISTED, INSUFFICIENT_BALANCE, INVALID_NUMBER, Outcome, normalise, outcome_of
from .owed import EARLY_FALLBACK_SECONDS, KEPT_SECONDS, OwedRow, owe
from .parts import PRICE_PER_PART, count_parts, money
from .reports import NO_REPORTS, Plan, ReportPlanner, report_body
from .state import Simulator
from .store import Store, insert_rows

DEFAULT_SENDER = "AFRICASTKNG"
QUEUED, SENT = 102, 101

TEXT_COLUMNS = "post_id, number, message_id, refusal, is_received, report"


@dataclass(frozen=True, slots=True)
class SendRequest:
    """The form of one POST. ``numbers`` as they came."""

    arrived_at: float
    username: str | None
    sender: str
    text: str
    numbers: list[str]
    is_premium: bool
    is_enqueued: bool

    @classmethod
    def from_form(cls, form: Mapping[str, str] | MultiDict[str, str], arrived_at: float) -> "SendRequest":
        is_premium = form.get("bulkSMSMode") == "0" or bool(form.get("keyword") or form.get("linkId"))
        return cls(
            arrived_at,
            form.get("username"),
            form.get("from") or DEFAULT_SENDER,
            form.get("message", ""),
            [number.strip() for number in form.get("to", "").split(",") if number.strip()],
            is_premium,
            form.get("enqueue") == "1",
        )


@dataclass(frozen=True, slots=True)
class Recipient:
    number: str
    outcome: Outcome
    message_id: str | None
    reports: Plan = NO_REPORTS


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What AT took: the answer it will give, and the ids of callbacks to post before giving it."""

    summary: str
    entries: list[dict[str, Any]]
    early_callbacks: range
    hangs: bool


def accept(simulator: Simulator, request: SendRequest) -> Acceptance:
    parts = count_parts(request.text)
    recipients = list(decide_recipients(simulator, request))
    accepted = sum(recipient.outcome.is_accepted for recipient in recipients)
    billed_parts = 0 if request.is_premium else parts * accepted
    early = write_acceptance(simulator.store, request, recipients, accepted, billed_parts)
    simulator.courier.wake()
    cost = "0" if request.is_premium else money(PRICE_PER_PART * parts)
    code = QUEUED if request.is_enqueued else SENT
    return Acceptance(
        send_summary(accepted, len(recipients), parts, is_premium=request.is_premium),
        [
            recipient_entry(each.number, each.outcome, each.message_id, cost, parts, code)
            for each in recipients
        ],
        early,
        any(each.outcome.hangs for each in recipients),
    )


def decide_recipients(simulator: Simulator, request: SendRequest) -> Iterator[Recipient]:
    faults = simulator.faults
    planner = ReportPlanner(faults, simulator.config.report_delay_seconds)
    blocked = simulator.blacklist.blocked_by(request.sender)
    has_no_money = faults.is_set("insufficient_balance")
    hexadecimal = os.urandom(16 * len(request.numbers)).hex()
    for index, raw in enumerate(request.numbers):
        number = normalise(raw)
        if number is None:
            yield Recipient(raw, INVALID_NUMBER, None)
            continue
        outcome = BLACKLISTED if number in blocked else outcome_of(number)
        if has_no_money and faults.fires("insufficient_balance", (number,)):
            outcome = INSUFFICIENT_BALANCE
        if outcome.refusal is not None:
            yield Recipient(number, outcome, None)
            continue
        message_id = f"ATXid_{hexadecimal[32 * index : 32 * index + 32]}"
        yield Recipient(number, outcome, message_id, planner.plan(outcome, number))


def write_acceptance(
    store: Store, request: SendRequest, recipients: list[Recipient], accepted: int, billed_parts: int
) -> range:
    """One commit for the POST, its texts and their reports. Returns the ids of the early callbacks."""
    received = sum(recipient.outcome.is_received for recipient in recipients)
    with store.write() as connection:
        post_id = insert_post(connection, request, len(recipients), accepted, "accepted")
        first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM texts").fetchone()[0]
        insert_rows(connection, "texts", TEXT_COLUMNS, [text_row(post_id, each) for each in recipients])
        owe(connection, list(report_rows(recipients, first, is_early=False)))
        early = insert_early(connection, list(report_rows(recipients, first, is_early=True)))
        connection.execute(
            "UPDATE totals SET received = received + ?, billed_parts = billed_parts + ?",
            (received, billed_parts),
        )
    return early


def text_row(post_id: int, recipient: Recipient) -> tuple[Any, ...]:
    outcome = recipient.outcome
    word = recipient.reports[0].word if recipient.reports else None
    return post_id, recipient.number, recipient.message_id, outcome.refusal, outcome.is_received, word


def report_rows(recipients: list[Recipient], first: int, *, is_early: bool) -> Iterator[OwedRow]:
    now = time.time()
    for text_id, recipient in enumerate(recipients, first):
        for report in recipient.reports:
            if report.is_early is is_early and recipient.message_id:
                due_at = now + (EARLY_FALLBACK_SECONDS if is_early else report.delay_seconds)
                body = report_body(recipient.number, recipient.message_id, report)
                yield "report", body, due_at, now + KEPT_SECONDS, text_id, None, report.word


def insert_early(connection: sqlite3.Connection, rows: list[OwedRow]) -> range:
    """Ids given out in one transaction follow each other."""
    if not rows:
        return range(0)
    owe(connection, rows)
    last: int = connection.execute("SELECT last_insert_rowid()").fetchone()[0]
    return range(last - len(rows) + 1, last + 1)


def insert_post(
    connection: sqlite3.Connection, request: SendRequest, recipients: int, accepted: int, result: str
) -> int:
    cursor = connection.execute(
        "INSERT INTO posts (arrived_at, username, sender, text, recipients, accepted, result)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (request.arrived_at, request.username, request.sender, request.text, recipients, accepted, result),
    )
    connection.execute(
        "UPDATE totals SET posts = posts + 1, recipients = recipients + ?, accepted = accepted + ?",
        (recipients, accepted),
    )
    return cursor.lastrowid or 0


def write_refused_post(store: Store, request: SendRequest, result: str) -> None:
    """A POST of which AT accepted nothing, with the reason in one word."""
    with store.write() as connection:
        insert_post(connection, request, len(request.numbers), 0, result)
