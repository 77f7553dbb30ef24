"""The proof: the records are read against each other, and every contradiction is named.

Set-based, so that a million messages are a few passes in the database and nothing in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, text

from messaging import statuses
from messaging.consent import ledger
from messaging.operations import health
from messaging.operations.recovery_views import latest_recoveries, sentence_of, totals
from messaging.reports.adoption import ambiguous_reports
from messaging.storage import tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from utils.money import parse_money

# Each check names at most this many; `counts` has the totals of what is merely listed.
MOST_NAMED = 100
# A lease that ended is swept within a minute; longer means that no worker sweeps.
OVERDUE = timedelta(minutes=3)
# A worker that is alive applies a report within a fraction of a second.
REPORT_OVERDUE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Problem:
    kind: str
    detail: str
    message_id: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Audit:
    problems: list[Problem]
    counts: dict[str, int]
    # No contradiction, but somebody may want to look: kind, id, detail.
    listed: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        problems = [problem.as_json() for problem in self.problems]
        return {"ok": self.ok, "problems": problems, "counts": self.counts, "listed": self.listed}


_NO_NESTED_LOOPS = text("SET LOCAL enable_nestloop = off")


def audit(database: Database) -> Audit:
    """One transaction: what it says was true at one moment."""
    with database.read() as connection:
        if not database.is_sqlite:
            # Its usual level shows each statement another moment.
            connection.execution_options(isolation_level="REPEATABLE READ")
        return audit_at(connection, wall_clock(connection))


def audit_at(connection: Connection, now: datetime) -> Audit:
    """In the caller's transaction. `now`: what is called late is late by this moment."""
    if connection.dialect.name == "postgresql":
        # Until a table is analysed the planner takes it for tiny and joins by nested loops: 2 minutes for 53,000
        # messages. Hash and merge joins stay linear whatever the statistics say.
        connection.execute(_NO_NESTED_LOOPS)
    problems = [problem for check in CHECKS for problem in check(connection, now)]
    return Audit(problems, _counts(connection), list(_listed(connection)))


def _unknown_statuses(connection: Connection, _now: datetime) -> Iterator[Problem]:
    statement = select(tables.messages.c.id, tables.messages.c.status).where(
        tables.messages.c.status.not_in(statuses.ALL)
    )
    for row in connection.execute(statement.limit(MOST_NAMED)):
        yield Problem("unknown_status", f"the status is {row.status!r}", row.id)


def _missing_messages(connection: Connection, _now: datetime) -> Iterator[Problem]:
    """Every accepted request is accounted for: a batch has as many rows as it was answered for."""
    for row in connection.execute(_BATCH_TOTALS, {"most": MOST_NAMED}):
        yield Problem(
            "missing_messages", f"batch {row.id} took {row.total} messages and has {row.found} rows"
        )


_BATCH_TOTALS = text(
    """
    SELECT batches.id, batches.total, count(messages.id) AS found
    FROM batches LEFT JOIN messages ON messages.batch_id = batches.id
    WHERE batches.status <> 'receiving'
    GROUP BY batches.id, batches.total
    HAVING count(messages.id) <> batches.total
    LIMIT :most
    """
)


def _missing_from_posts(connection: Connection, _now: datetime) -> Iterator[Problem]:
    """The same for what belongs to no batch: every message of a POST has an event of it."""
    for row in connection.execute(_POST_TOTALS, {"most": MOST_NAMED}):
        yield Problem(
            "missing_messages",
            f"attempt {row.id} posted {row.message_count} messages, {row.found} have an event of it",
        )


_POST_TOTALS = text(
    """
    SELECT attempts.id, attempts.message_count, count(DISTINCT events.message_id) AS found
    FROM attempts LEFT JOIN message_events AS events ON events.attempt_id = attempts.id
    WHERE attempts.state IN ('recorded', 'unknown')
    GROUP BY attempts.id, attempts.message_count
    HAVING count(DISTINCT events.message_id) <> attempts.message_count
    LIMIT :most
    """
)


def _history_disagrees(connection: Connection, _now: datetime) -> Iterator[Problem]:
    """The status of a message is the last word of its history; one without history has not left the queue."""
    for row in connection.execute(_LAST_WORDS, {"most": MOST_NAMED}):
        yield Problem(
            "history_disagrees", f"the status is {row.status}, the history ends with {row.last}", row.id
        )


_LAST_WORDS = text(
    """
    SELECT messages.id, messages.status, coalesce(events.status, 'nothing') AS last
    FROM messages
    LEFT JOIN (SELECT message_id, max(id) AS id FROM message_events GROUP BY message_id) AS latest
        ON latest.message_id = messages.id
    LEFT JOIN message_events AS events ON events.id = latest.id
    WHERE coalesce(events.status, 'queued') <> messages.status
      AND NOT (messages.status = 'sending' AND coalesce(events.status, 'queued') = 'queued')
    LIMIT :most
    """
)


def _backward_steps(connection: Connection, _now: datetime) -> Iterator[Problem]:
    pairs = [f"{before}>{after}" for before, follow in statuses.STEPS.items() for after in follow]
    for row in connection.execute(_STEPS, {"pairs": pairs, "most": MOST_NAMED}):
        yield Problem("went_backward", f"{row.before} was followed by {row.status}", row.message_id)


_STEPS = text(
    """
    SELECT message_id, before, status FROM (
        SELECT message_id, status,
               lag(status, 1, 'queued') OVER (PARTITION BY message_id ORDER BY id) AS before
        FROM message_events
    ) AS steps
    WHERE before || '>' || status NOT IN :pairs
    LIMIT :most
    """
).bindparams(bindparam("pairs", expanding=True))


def _sent_twice(connection: Connection, _now: datetime) -> Iterator[Problem]:
    for row in connection.execute(_ACCEPTED_TWICE, {"most": MOST_NAMED}):
        yield Problem(
            "accepted_twice", f"{row.attempts} attempts were accepted by the provider", row.message_id
        )


_ACCEPTED_TWICE = text(
    """
    SELECT events.message_id, count(DISTINCT events.attempt_id) AS attempts
    FROM message_events AS events JOIN messages ON messages.id = events.message_id
    WHERE events.status = 'accepted' AND events.source = 'provider'
    GROUP BY events.message_id, messages.on_unknown, messages.unknown_resends
    HAVING count(DISTINCT events.attempt_id)
        > CASE WHEN messages.on_unknown = 'resend' AND messages.unknown_resends > 0 THEN 2 ELSE 1 END
    LIMIT :most
    """
)


def _shared_provider_ids(connection: Connection, _now: datetime) -> Iterator[Problem]:
    provider_id = tables.messages.c.provider_message_id
    statement = (
        select(provider_id, func.count().label("owners"), func.min(tables.messages.c.id).label("first"))
        .where(provider_id.is_not(None))
        .group_by(provider_id)
        .having(func.count() > 1)
        .limit(MOST_NAMED)
    )
    for row in connection.execute(statement):
        yield Problem("shared_provider_id", f"{row.owners} messages have the same provider id", row.first)


def _lost_claims(connection: Connection, now: datetime) -> Iterator[Problem]:
    """A message that is `sending` is held by an attempt that is open, and an open one has a lease."""
    for row in connection.execute(_HELD_BY_NOTHING, {"most": MOST_NAMED}):
        yield Problem("held_by_no_attempt", "the message is sending, but no attempt holds it", row.id)
    overdue = select(tables.attempts.c.id, tables.attempts.c.state).where(
        tables.attempts.c.state.in_(("claimed", "posting")),
        tables.attempts.c.lease_until < steady(connection, now) - OVERDUE,
    )
    for row in connection.execute(overdue.limit(MOST_NAMED)):
        yield Problem(
            "lease_overdue", f"attempt {row.id} is {row.state} and its lease has ended: is a worker running?"
        )


_HELD_BY_NOTHING = text(
    """
    SELECT messages.id FROM messages
    LEFT JOIN attempts ON attempts.id = messages.attempt_id AND attempts.state IN ('claimed', 'posting')
    WHERE messages.status = 'sending' AND attempts.id IS NULL
    LIMIT :most
    """
)


def _unapplied_callbacks(connection: Connection, _now: datetime) -> Iterator[Problem]:
    statement = select(tables.callbacks.c.id, tables.callbacks.c.kind, tables.callbacks.c.detail).where(
        tables.callbacks.c.outcome == "unapplied"
    )
    for row in connection.execute(statement.limit(MOST_NAMED)):
        yield Problem("unapplied_callback", f"callback {row.id} ({row.kind}): {row.detail}")


def _late_reports(connection: Connection, now: datetime) -> Iterator[Problem]:
    """Stored, answered, and not applied though a worker is alive. While none is, they only wait."""
    if not health.is_alive_at(connection, now):
        return
    late = select(tables.callbacks.c.id, tables.callbacks.c.received_at).where(
        tables.RECEIVED, tables.callbacks.c.received_at < now - REPORT_OVERDUE
    )
    for row in connection.execute(late.order_by(tables.callbacks.c.received_at).limit(MOST_NAMED)):
        waited = (now - row.received_at).total_seconds()
        yield Problem("report_not_applied", f"callback {row.id} has waited for {waited:.0f} s")


def _costs_differ(connection: Connection, _now: datetime) -> Iterator[Problem]:
    """What we add up is what AT wrote. A batch has a handful of prices, so this reads a handful of rows."""
    statement = select(
        tables.messages.c.cost_text,
        tables.messages.c.cost_micros,
        tables.messages.c.cost_currency,
        func.min(tables.messages.c.id).label("first"),
    ).group_by(tables.messages.c.cost_text, tables.messages.c.cost_micros, tables.messages.c.cost_currency)
    for row in connection.execute(statement):
        money = None if row.cost_text is None else parse_money(row.cost_text)
        booked = (row.cost_micros, row.cost_currency)
        written = (None, None) if money is None else (money.micros, money.currency)
        if booked != written:
            detail = f"the provider wrote {row.cost_text!r}, the records have {booked[1]} {booked[0]} micros"
            yield Problem("cost_differs", detail, row.first)


def _suppressions_differ(connection: Connection, _now: datetime) -> Iterator[Problem]:
    """The blocks in force are what the ledger adds up to."""
    for row in connection.execute(_LEDGER_SUM, {"most": MOST_NAMED}):
        yield Problem("opt_out_differs", f"ledger entry {row.id} and the blocks in force disagree")
    for row in connection.execute(_BLOCKS_WITHOUT_LEDGER, {"most": MOST_NAMED}):
        yield Problem(
            "opt_out_differs", f"a block in force names ledger entry {row.id}, which is not its own"
        )


_LEDGER_SUM = text(
    """
    SELECT latest.id FROM (
        SELECT phone, sender_id, max(id) AS id FROM opt_outs GROUP BY phone, sender_id
    ) AS latest
    JOIN opt_outs ON opt_outs.id = latest.id
    LEFT JOIN suppressions
        ON suppressions.phone = latest.phone AND suppressions.sender_id = latest.sender_id
    WHERE (opt_outs.action = 'stop') <> (suppressions.phone IS NOT NULL)
    LIMIT :most
    """
)

_BLOCKS_WITHOUT_LEDGER = text(
    """
    SELECT suppressions.opt_out_id AS id FROM suppressions
    LEFT JOIN opt_outs
        ON opt_outs.id = suppressions.opt_out_id AND opt_outs.action = 'stop'
        AND opt_outs.phone = suppressions.phone AND opt_outs.sender_id = suppressions.sender_id
    WHERE opt_outs.id IS NULL
    LIMIT :most
    """
)

CHECKS: tuple[Callable[[Connection, datetime], Iterator[Problem]], ...] = (
    _unknown_statuses,
    _missing_messages,
    _missing_from_posts,
    _history_disagrees,
    _backward_steps,
    _sent_twice,
    _shared_provider_ids,
    _lost_claims,
    _unapplied_callbacks,
    _late_reports,
    _costs_differ,
    _suppressions_differ,
)


def _counts(connection: Connection) -> dict[str, int]:
    """What an operator looks at though it is no contradiction."""
    by_status = select(tables.messages.c.status, func.count()).group_by(tables.messages.c.status)
    counts = {f"messages_{status}": count for status, count in connection.execute(by_status)}
    by_outcome = select(tables.callbacks.c.outcome, func.count()).group_by(tables.callbacks.c.outcome)
    counts |= {f"callbacks_{outcome}": count for outcome, count in connection.execute(by_outcome)}
    parked = select(func.count()).where(tables.delivery_reports.c.message_id.is_(None))
    counts["reports_parked"] = connection.execute(parked).scalar_one()
    inbound = select(func.count()).select_from(tables.inbound_messages)
    counts["inbound_messages"] = connection.execute(inbound).scalar_one()
    counts["recoveries"] = totals(connection)[0]
    return counts


# Those whom somebody has opted out since, or whose conversation somebody has read, wait for nobody.
_POSSIBLE_OPT_OUTS = text(
    """
    SELECT inbound.id
    FROM inbound_messages AS inbound
    JOIN conversations ON conversations.phone = inbound.sender AND conversations.unread > 0
    WHERE inbound.possible_opt_out
      AND NOT EXISTS (SELECT 1 FROM suppressions WHERE suppressions.phone = inbound.sender)
    ORDER BY inbound.id DESC
    LIMIT :most
    """
)


def _listed(connection: Connection) -> Iterator[dict[str, Any]]:
    """What waits for a person: callbacks that cannot be used, reports that nobody or more than one may own."""
    quarantined = select(tables.callbacks.c.id, tables.callbacks.c.kind, tables.callbacks.c.detail).where(
        tables.callbacks.c.outcome == "quarantined"
    )
    for row in connection.execute(quarantined.order_by(tables.callbacks.c.id.desc()).limit(MOST_NAMED)):
        yield {"kind": "quarantined_callback", "id": row.id, "detail": f"{row.kind}: {row.detail}"}
    held = select(tables.messages.c.id, tables.messages.c.reason).where(tables.HELD)
    for message_id, reason in connection.execute(
        held.order_by(tables.messages.c.id.desc()).limit(MOST_NAMED)
    ):
        detail = f"{reason}: release or cancel it (sms held)"
        yield {"kind": "held_message", "id": message_id, "detail": detail}
    for entry_id, written in ledger.without_number(connection, MOST_NAMED):
        detail = f"{written!r} is no phone number: opt the person out by number, where you know it"
        yield {"kind": "opt_out_without_number", "id": entry_id, "detail": detail}
    for row in connection.execute(_POSSIBLE_OPT_OUTS, {"most": MOST_NAMED}):
        detail = "it holds a stop word and more: read it, and opt the person out where that is meant"
        yield {"kind": "possible_opt_out", "id": row.id, "detail": detail}
    for recovery in latest_recoveries(connection, MOST_NAMED):
        yield {"kind": "records_missing", "id": recovery.id, "detail": sentence_of(recovery)}
    ambiguous = {report.report_id: report.why for report in ambiguous_reports(connection)}
    parked = select(
        tables.delivery_reports.c.id, tables.delivery_reports.c.word, tables.delivery_reports.c.callback_id
    ).where(tables.delivery_reports.c.message_id.is_(None))
    for row in connection.execute(parked.order_by(tables.delivery_reports.c.id.desc()).limit(MOST_NAMED)):
        why = ambiguous.get(row.id, "no message has its id")
        detail = f"{row.word}, callback {row.callback_id}: {why}"
        yield {"kind": "parked_report", "id": row.id, "detail": detail}
