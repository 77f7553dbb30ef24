"""The tables. docs/architecture.md explains the words; who may write a row stands in the module named beside it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.sql.elements import TextClause

from messaging.storage.column_types import Id, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial_index(name: str, *columns: Column[Any], where: TextClause, unique: bool = False) -> Index:
    """An index of the rows for which `where` is true, on both stores."""
    return Index(name, *columns, unique=unique, postgresql_where=where, sqlite_where=where)


# messaging.batches
batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text),
    Column("status", String(12), nullable=False),
    Column("reason", Text),
    # The figures of a reason, in words.
    Column("detail", Text),
    # A person let it go on past the limits of a day. messaging.costs.daily_limits.
    Column("passes_limits", Boolean, nullable=False, server_default=text("false")),
    Column("template", Text),
    Column("sender_id", String(32)),
    Column("send_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("max_cost_micros", BigInteger),
    Column("max_cost_currency", String(3)),
    # Only where there is a max_cost: what was billed or may have been. messaging.costs.budgets.
    Column("spent_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("total", Integer, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("duplicates", Integer, nullable=False, server_default=text("0")),
    # JSON, None where there are none: it holds numbers, so it goes with the refused rows. messaging.messages.warnings.
    Column("warnings", Text),
    Column("on_unknown", String(6), nullable=False, server_default=text("'hold'")),
    # Of a file: where its bytes are, how much of it is rows by now, and when (steady time) an importer was last at it.
    Column("upload_id", String(32)),
    # What it calls the numbers, where the caller said so.
    Column("phone_column", Text),
    # Two letters: where its numbers without a country code are from; null: as DEFAULT_REGION says.
    Column("default_region", String(2)),
    # The share of its rows beyond which nothing of it is sent; null: no limit.
    Column("max_refused", Float),
    # A hash of its file and text, by which a second send of the same is noticed.
    Column("content_digest", String(64)),
    # What its first line calls the columns: a JSON list.
    Column("file_columns", Text),
    Column("rows_read", Integer, nullable=False, server_default=text("0")),
    Column("importer_seen_at", UtcDateTime),
    # A hash of the Idempotency-Key that asked for it. messaging.messages.lost_texts.
    Column("call", String(16)),
    Column("created_at", UtcDateTime, nullable=False),
    # The key or person that asked for it (messaging.access.actor), and the id of the request, as the log has it.
    Column("created_by", String(80)),
    Column("request_id", String(64)),
    Column("finished_at", UtcDateTime),
)
OF_CONTENT = text("content_digest IS NOT NULL")
_partial_index("ix_batches_content_digest", batches.c.content_digest, where=OF_CONTENT)
# The reason of one that is still being received: no worker takes it over.
READ_BY_COMMAND = "read_by_command"
RECEIVING = text("status = 'receiving'")
_partial_index("ix_batches_receiving", batches.c.id, where=RECEIVING)
WITH_WARNINGS = text("warnings IS NOT NULL")
_partial_index("ix_batches_warnings", batches.c.created_at, where=WITH_WARNINGS)

PAUSED_BATCH = text("status = 'paused'")
_partial_index("ix_batches_paused", batches.c.id, where=PAUSED_BATCH)

# A batch's file as it was uploaded, until its rows are messages. messaging.batches.upload_store.
upload_pieces = Table(
    "upload_pieces",
    metadata,
    Column("upload_id", String(32), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("stored_at", UtcDateTime, nullable=False),
)

# What of a file was not taken, and why; duplicates have a code of their own. messaging.batches.importer.
refused_rows = Table(
    "refused_rows",
    metadata,
    Column("batch_id", Id, ForeignKey("batches.id"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("value", Text, nullable=False),
    Column("code", String(24), nullable=False),
    Column("reason", Text, nullable=False),
    # The row as it stood in the file: a JSON list. None where it is very long.
    Column("cells", Text),
)

# Those that something may still happen to: messaging.batches.upkeep.
UNFINISHED = text("finished_at IS NULL")
_partial_index("ix_batches_unfinished", batches.c.id, where=UNFINISHED)

# messaging.messages.queue inserts; claims, records, reports and sweeps move the status.
messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("batch_id", Id, ForeignKey("batches.id")),
    Column("recipient", String(20), nullable=False),
    Column("text", Text, nullable=False),
    Column("sender_id", String(32)),
    Column("link_id", Text),
    Column("origin", String(10), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("status", String(10), nullable=False),
    Column("reason", Text),
    Column("on_unknown", String(6), nullable=False),
    # Steady time (messaging.storage.clocks), but by the wall clock where somebody gave the hour.
    Column("due_at", UtcDateTime, nullable=False),
    Column("due_by_wall", Boolean, nullable=False, server_default=text("false")),
    Column("expires_at", UtcDateTime),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("unknown_resends", SmallInteger, nullable=False, server_default=text("0")),
    Column("attempt_id", Id),
    Column("provider_message_id", Text),
    Column("cost_text", Text),
    Column("cost_micros", BigInteger),
    Column("cost_currency", String(3)),
    Column("estimated_parts", SmallInteger),
    Column("parts", SmallInteger),
    Column("network", Text),
    Column("inbound_id", Id),
    Column("resend_of", Id),
    # The one text that may pass the block it confirms: the answer to STOP.
    Column("passes_opt_out", Boolean, nullable=False, server_default=text("false")),
    # A person let it go past the limits of a day.
    Column("passes_limits", Boolean, nullable=False, server_default=text("false")),
    # Of a batch: the same for rows with the same text, in the order of the file.
    Column("text_group", BigInteger),
    # The caller's own id.
    Column("reference", String(100)),
    # Of a file: where the row begins there, and its cells as a JSON list. None where they are very long.
    Column("line", Integer),
    Column("cells", Text),
    Column("created_at", UtcDateTime, nullable=False),
    # Of a text outside a batch; those of a batch have their batch's.
    Column("created_by", String(80)),
    Column("request_id", String(64)),
    Column("sent_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
)
# Two indexes of what is due: singles and replies by priority, and each batch by itself, so that a paused or
# later batch of a million rows is never walked over to find one text that may go now.
URGENT = text("status = 'queued' AND priority < 5")
_partial_index("ix_messages_urgent", messages.c.priority, messages.c.due_at, messages.c.id, where=URGENT)
BULK = text("status = 'queued' AND priority = 5")
_partial_index(
    "ix_messages_bulk",
    messages.c.batch_id,
    messages.c.due_at,
    messages.c.text_group,
    messages.c.id,
    where=BULK,
)
# Whether an earlier text to the same person waits. messaging.sending.order.
QUEUED = text("status = 'queued'")
_partial_index("ix_messages_queued", messages.c.recipient, messages.c.priority, messages.c.id, where=QUEUED)
SENDING = text("status = 'sending'")
_partial_index("ix_messages_sending", messages.c.attempt_id, where=SENDING)
ACCEPTED = text("status = 'accepted'")
_partial_index("ix_messages_accepted", messages.c.sent_at, where=ACCEPTED)
EXPIRING = text("status = 'queued' AND expires_at IS NOT NULL")
_partial_index("ix_messages_expiring", messages.c.expires_at, where=EXPIRING)
HELD = text("status = 'held'")
_partial_index("ix_messages_held", messages.c.id, where=HELD)
# What of a batch waits for a person or, by its due_at, for an hour of the day.
WAITS = text("(status = 'held' OR (status = 'queued' AND due_by_wall))")
_partial_index(
    "ix_messages_waits",
    messages.c.batch_id,
    messages.c.status,
    messages.c.reason,
    messages.c.due_at,
    where=WAITS,
)
HELD_EXPIRING = text("status = 'held' AND expires_at IS NOT NULL")
_partial_index("ix_messages_held_expiring", messages.c.expires_at, where=HELD_EXPIRING)
UNSETTLED = text("status IN ('unknown', 'sending')")
_partial_index("ix_messages_unsettled", messages.c.recipient, where=UNSETTLED)
WITH_PROVIDER_ID = text("provider_message_id IS NOT NULL")
# Not unique: a provider that hands out one id twice must not make us lose the answer. The audit names it.
_partial_index("ix_messages_provider_message_id", messages.c.provider_message_id, where=WITH_PROVIDER_ID)
Index("ix_messages_recipient", messages.c.recipient, messages.c.id)
WITH_REFERENCE = text("reference IS NOT NULL")
_partial_index("ix_messages_reference", messages.c.reference, messages.c.id, where=WITH_REFERENCE)
IN_BATCH = text("batch_id IS NOT NULL")
# All that a batch's progress adds up, so that a million rows are read from the index alone.
_partial_index(
    "ix_messages_batch",
    messages.c.batch_id,
    messages.c.status,
    messages.c.cost_currency,
    messages.c.cost_micros,
    messages.c.parts,
    where=IN_BATCH,
)

# One row per POST to the provider: messaging.sending.claim writes it before, messaging.sending.record after.
attempts = Table(
    "attempts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", String(8), nullable=False),
    Column("worker", Text, nullable=False),
    Column("is_trigger", Boolean, nullable=False, server_default=text("false")),
    Column("sender_id", String(32)),
    Column("message_count", Integer, nullable=False),
    Column("claimed_at", UtcDateTime, nullable=False),
    # Steady time.
    Column("lease_until", UtcDateTime, nullable=False),
    Column("posting_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("outcome", String(10)),
    Column("reason", Text),
    Column("http_status", Integer),
    Column("provider_message", Text),
    # Random: an id may be given again after a backup was put back. None: of a release before it.
    Column("token", String(32)),
    # What the POST may cost, held back from the max_cost of this batch until it is recorded.
    Column("budget_batch_id", Id),
    Column("reserved_micros", BigInteger),
    # What it counts in the limits of a day: JSON, the day and the sums. messaging.costs.daily_limits.
    Column("counted", Text),
    # AT's whole answer, kept for triggers only: a repeated call with the same key gets it again.
    Column("answer", Text),
)
OPEN = text("state IN ('claimed', 'posting')")
_partial_index("ix_attempts_open", attempts.c.lease_until, where=OPEN)
WITH_TOKEN = text("token IS NOT NULL")
_partial_index("ix_attempts_token", attempts.c.token, where=WITH_TOKEN, unique=True)

# Append-only: every change of a message's status, whatever made it. `sending` is told by the attempt.
message_events = Table(
    "message_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("status", String(10), nullable=False),
    Column("source", String(10), nullable=False),
    Column("attempt_id", Id),
    Column("detail", Text),
    Index("ix_message_events_message_id", "message_id"),
)

# How many messages came to which status in which hour: what writers append, and what a sweep folds it into.
# messaging.messages.status_counts.
status_deltas = Table(
    "status_deltas",
    metadata,
    Column("id", Id, primary_key=True),
    Column("hour", UtcDateTime, nullable=False),
    Column("status", String(10), nullable=False),
    Column("reason", Text, nullable=False),
    Column("sender_id", String(32), nullable=False),
    Column("network", Text, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("delay", SmallInteger, nullable=False),
    Column("messages", Integer, nullable=False),
    Column("parts", Integer, nullable=False),
    Column("micros", BigInteger, nullable=False),
)
hourly_counts = Table(
    "hourly_counts",
    metadata,
    Column("hour", UtcDateTime, primary_key=True),
    Column("status", String(10), primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("sender_id", String(32), primary_key=True),
    Column("network", Text, primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("delay", SmallInteger, primary_key=True),
    Column("messages", BigInteger, nullable=False),
    Column("parts", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
)

# The journal: every callback as it came. messaging.callbacks.journal.
callbacks = Table(
    "callbacks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("content_type", Text),
    Column("digest", LargeBinary(16), nullable=False),
    Column("count", Integer, nullable=False),
    Column("outcome", String(12), nullable=False),
    Column("detail", Text),
    Column("received_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    UniqueConstraint("kind", "digest"),
)
TO_LOOK_AT = text("outcome IN ('quarantined', 'unapplied')")
_partial_index("ix_callbacks_to_look_at", callbacks.c.id, where=TO_LOOK_AT)
# Delivery reports that the worker has still to apply. messaging.callbacks.received.
RECEIVED = text("outcome = 'received'")
_partial_index("ix_callbacks_received", callbacks.c.received_at, callbacks.c.id, where=RECEIVED)

inbound_messages = Table(
    "inbound_messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("provider_inbound_id", Text, nullable=False, unique=True),
    Column("sender", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("link_id", Text),
    Column("network", Text),
    Column("cost_text", Text),
    Column("provider_date", Text),
    # The number that AT's inbox gives it, which no callback tells; known once `sms fetch-inbound` has seen it.
    Column("inbox_id", BigInteger),
    # Came from AT's inbox: its callback may still come, with an id of its own.
    Column("awaits_callback", Boolean, nullable=False, server_default=text("false")),
    Column("meaning", String(8), nullable=False),
    # It holds a stop word and more: a person has to read it.
    Column("possible_opt_out", Boolean, nullable=False, server_default=text("false")),
    Column("reply_outcome", Text),
    # While it waits for a reply handler: when it is due, in steady time; a claim moves that behind its lease.
    Column("reply_due_at", UtcDateTime),
    Column("reply_tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("reply_error", Text),
    # What the loop breaker holds: a JSON list of texts.
    Column("held_texts", Text),
    Column("callback_id", Id, ForeignKey("callbacks.id")),
    Column("received_at", UtcDateTime, nullable=False),
    Index("ix_inbound_messages_sender", "sender", "id"),
)
WAITING = text("reply_outcome = 'waiting'")
_partial_index("ix_inbound_messages_waiting", inbound_messages.c.reply_due_at, where=WAITING)
POSSIBLE_OPT_OUT = text("possible_opt_out")
_partial_index("ix_inbound_messages_possible_opt_out", inbound_messages.c.id, where=POSSIBLE_OPT_OUT)
NOT_ANSWERED = text("reply_outcome IN ('held', 'failed')")
_partial_index("ix_inbound_messages_not_answered", inbound_messages.c.id, where=NOT_ANSWERED)

SEEN_IN_INBOX = text("inbox_id IS NOT NULL")
_partial_index("ix_inbound_messages_inbox_id", inbound_messages.c.inbox_id, unique=True, where=SEEN_IN_INBOX)
AWAITING = text("awaits_callback")
_partial_index("ix_inbound_messages_awaiting", inbound_messages.c.sender, where=AWAITING)

# One row per phone that ever wrote to us. messaging.conversations.threads.
conversations = Table(
    "conversations",
    metadata,
    Column("phone", String(20), primary_key=True),
    # The number of ours that it wrote to last.
    Column("number", String(32), nullable=False),
    Column("last_inbound_id", Id, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("unread", Integer, nullable=False),
    Index("ix_conversations_last_inbound_id", "last_inbound_id"),
)
UNREAD = text("unread > 0")
_partial_index("ix_conversations_unread", conversations.c.last_inbound_id, where=UNREAD)

# Every report as it was understood; one without message_id is parked.
delivery_reports = Table(
    "delivery_reports",
    metadata,
    Column("id", Id, primary_key=True),
    Column("callback_id", Id, ForeignKey("callbacks.id"), nullable=False),
    Column("message_id", Id, ForeignKey("messages.id")),
    Column("provider_message_id", Text, nullable=False),
    Column("recipient", Text),
    Column("word", Text, nullable=False),
    Column("failure_reason", Text),
    Column("network", Text),
    Column("retry_count", Text),
    Column("effect", String(12), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
)
JOINED = text("message_id IS NOT NULL")
# Without the parked ones: SQLite would take it for them, and read them all, where their own index has the few.
_partial_index("ix_delivery_reports_message_id", delivery_reports.c.message_id, where=JOINED)
PARKED = text("message_id IS NULL")
_partial_index("ix_delivery_reports_parked", delivery_reports.c.provider_message_id, where=PARKED)
_partial_index("ix_delivery_reports_parked_recipient", delivery_reports.c.recipient, where=PARKED)

# The ledger, append-only (messaging.consent.ledger), and what it means now: one row per block in force.
opt_outs = Table(
    "opt_outs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("phone", String(20), nullable=False),
    Column("action", String(6), nullable=False),
    Column("scope", String(6), nullable=False),
    Column("sender_id", String(32), nullable=False, server_default=text("''")),
    Column("source", String(16), nullable=False),
    Column("callback_id", Id, ForeignKey("callbacks.id")),
    Column("detail", Text),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_opt_outs_phone", "phone"),
)
suppressions = Table(
    "suppressions",
    metadata,
    Column("phone", String(20), primary_key=True),
    # Empty: everything we send.
    Column("sender_id", String(32), primary_key=True),
    Column("opt_out_id", Id, ForeignKey("opt_outs.id"), nullable=False),
)

# Of who was forgotten: a hash in place of the number. messaging.consent.forgotten.
FORGOTTEN = text("substr(phone, 1, 1) = '#'")
_partial_index("ix_suppressions_forgotten", suppressions.c.phone, where=FORGOTTEN)

# Who agreed to be texted, append-only (messaging.consent.consents), and what is in force now: one row per agreement.
consents = Table(
    "consents",
    metadata,
    Column("id", Id, primary_key=True),
    Column("phone", String(20), nullable=False),
    # 'give' or 'withdraw'.
    Column("action", String(8), nullable=False),
    # Empty: everything we send.
    Column("sender_id", String(32), nullable=False, server_default=text("''")),
    Column("purpose", Text),
    Column("wording", Text),
    Column("wording_version", Text),
    Column("source", Text, nullable=False),
    Column("evidence", Text),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_consents_phone", "phone"),
)
consents_in_force = Table(
    "consents_in_force",
    metadata,
    Column("phone", String(20), primary_key=True),
    Column("sender_id", String(32), primary_key=True),
    Column("consent_id", Id, ForeignKey("consents.id"), nullable=False),
)

# What is paused now: 'account' or 'sender:NAME'. messaging.sending.pauses.
pauses = Table(
    "pauses",
    metadata,
    Column("name", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("detail", Text),
    Column("since", UtcDateTime, nullable=False),
    Column("probed_at", UtcDateTime),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("route", String(40), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("answer", Text),
    Column("attempt_id", Id),
    Column("created_at", UtcDateTime, nullable=False),
    # The same moment by the boot clock: a key is forgotten when it is a day old by both.
    Column("steady_at", UtcDateTime),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

# What a part last cost, by sender and by the first digits of a number, which tell its network. messaging.costs.prices.
prices = Table(
    "prices",
    metadata,
    Column("sender_id", String(32), primary_key=True),
    Column("prefix", String(8), primary_key=True),
    Column("country", String(2)),
    Column("currency", String(3), nullable=False),
    Column("micros_per_part", BigInteger, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

# What was spent in a day of TIME_ZONE, or may have been, by what a limit is set for: 'account', 'key:NAME' and
# 'sender:NAME'. Only the last check writes it. Whoever corrects it appends to `spend_changes`, which the next last
# check adds. messaging.costs.daily_limits.
daily_spend = Table(
    "daily_spend",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("scope", String(80), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("micros", BigInteger, nullable=False),
)
spend_changes = Table(
    "spend_changes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("day", String(10), nullable=False),
    Column("scope", String(80), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("micros", BigInteger, nullable=False),
)

# Account-wide token buckets, one row each. messaging.sending.rate_limit.
rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("tokens_micros", BigInteger, nullable=False),
    Column("refilled_at", UtcDateTime, nullable=False),
)

# One row: the state of the circuit breaker, all in steady time. messaging.sending.circuit_breaker.
circuit_breakers = Table(
    "circuit_breakers",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("next_post_at", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime, nullable=False),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("worker", Text, primary_key=True),
    # Steady time.
    Column("seen_at", UtcDateTime, nullable=False),
)

# A row for each start of each machine: what its boot clock showed at a moment of steady time, when it was looked at
# last, and when the wall clock was last set by more than a minute. messaging.storage.clocks.
clock_anchors = Table(
    "clock_anchors",
    metadata,
    Column("boot_id", String(40), primary_key=True),
    Column("boot_micros", BigInteger, nullable=False),
    Column("steady_at", UtcDateTime, nullable=False),
    Column("seen_steady_at", UtcDateTime, nullable=False),
    Column("seen_wall_at", UtcDateTime, nullable=False),
    Column("stepped_at", UtcDateTime),
    Column("stepped_micros", BigInteger),
)

# One row: which AT account and host this database belongs to. messaging.operations.account_check.
service_identity = Table(
    "service_identity",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("account", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

# One row: which database this is, wherever a copy of it lies, and how far it is. messaging.storage.identity.
database_identity = Table(
    "database_identity",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("database_id", String(32), nullable=False),
    Column("hash_key", LargeBinary(32), nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    # Raised by each heartbeat: lower than somebody has seen it, the database went backwards.
    Column("counter", BigInteger, nullable=False, server_default=text("0")),
    Column("beat_at", UtcDateTime),
    # PostgreSQL's cluster, database and timeline. A copy that is restored elsewhere still names the old ones.
    Column("place", Text),
    # The one that is open. messaging.operations.recovery.
    Column("recovery_id", Id),
)

# One row for each time that the database was found to have gone backwards. messaging.operations.recovery.
recoveries = Table(
    "recoveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("reason", String(16), nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    # What was written between the last heartbeat that the database has and the moment it was found is missing.
    Column("gap_from", UtcDateTime),
    Column("closed_at", UtcDateTime),
    # What left in the gap by the witnesses: POSTs; messages that became unknown; texts of which no row is left.
    Column("posts", Integer, nullable=False, server_default=text("0")),
    Column("unknown", Integer, nullable=False, server_default=text("0")),
    Column("without_row", Integer, nullable=False, server_default=text("0")),
    # Due texts that wait for a person, because a witness is missing.
    Column("held", Integer, nullable=False, server_default=text("0")),
    # Texts of the gap that AT's inbox gave; null: it could not be read.
    Column("fetched", Integer),
)

# The folders with witnesses, one for each machine that sends. messaging.operations.recovery.
witness_folders = Table(
    "witness_folders",
    metadata,
    Column("folder_id", String(32), primary_key=True),
    Column("host", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    # Why it could not be written when it was seen last.
    Column("problem", Text),
    # The last recovery that has read it, and how many POSTs of this database it found there.
    Column("recovery_id", Id),
    Column("posts", Integer, nullable=False, server_default=text("0")),
)

# What left in a gap and has no row any more, by hashes: what is made anew of it is not sent again.
lost_texts = Table(
    "lost_texts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("recovery_id", Id, ForeignKey("recoveries.id"), nullable=False),
    Column("attempt_id", Id, nullable=False),
    Column("posting_at", UtcDateTime, nullable=False),
    Column("recipient", String(16), nullable=False),
    Column("text", String(16), nullable=False),
    Column("batch_id", Id),
    # Hashes of the inbound text that it answered, and of the key of the call that asked for it.
    Column("inbound", String(16)),
    Column("call", String(16)),
)
OF_BATCH = text("batch_id IS NOT NULL")
_partial_index("ix_lost_texts_batch_id", lost_texts.c.batch_id, where=OF_BATCH)
OF_INBOUND = text("inbound IS NOT NULL")
_partial_index("ix_lost_texts_inbound", lost_texts.c.inbound, where=OF_INBOUND)
OF_CALL = text("call IS NOT NULL")
_partial_index("ix_lost_texts_call", lost_texts.c.call, where=OF_CALL)

# The outbox to the operator's own system, written with the fact it tells of. messaging.forwarding.events inserts,
# messaging.forwarding.outbox moves the state: waiting, then delivered or failed.
forward_events = Table(
    "forward_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("event_id", String(40), nullable=False, unique=True),
    Column("type", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # When the next attempt is due, in steady time; a claim moves it behind its lease.
    Column("due_at", UtcDateTime, nullable=False),
    Column("http_status", Integer),
    Column("last_error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Index("ix_forward_events_created_at", "created_at"),
)
TO_FORWARD = text("state = 'waiting'")
_partial_index("ix_forward_events_waiting", forward_events.c.due_at, forward_events.c.id, where=TO_FORWARD)
NOT_FORWARDED = text("state = 'failed'")
_partial_index("ix_forward_events_failed", forward_events.c.id, where=NOT_FORWARDED)

# One row: how the receiver of forwarded events is doing. messaging.forwarding.receiver_state.
forward_state = Table(
    "forward_state",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    # A digest of its URL: with another URL everything below begins anew.
    Column("receiver", String(64), nullable=False),
    Column("step", Integer, nullable=False),
    # Steady time.
    Column("next_post_at", UtcDateTime, nullable=False),
    Column("failing_since", UtcDateTime),
    Column("succeeded_at", UtcDateTime),
    Column("paused_at", UtcDateTime),
    Column("reason", Text),
)

# messaging.access.keys: only a hash of the key is kept.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(40), nullable=False, unique=True),
    # Its first characters, by which a person recognises it.
    Column("prefix", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    # Served by the test service alone: messaging.operations.store_of_test_keys.
    Column("test", Boolean, nullable=False, server_default=text("false")),
    # What its sends may cost in a day.
    Column("daily_limit_micros", BigInteger),
    Column("daily_limit_currency", String(3)),
    Column("expires_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(80)),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# messaging.access.operators. Without a password: invited by a link, or disabled.
operators = Table(
    "operators",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(40), nullable=False, unique=True),
    Column("role", String(10), nullable=False),
    Column("password_hash", Text),
    # By which a password is chosen, once.
    Column("link_digest", String(64), unique=True),
    Column("link_until", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(80)),
    Column("disabled_at", UtcDateTime),
)

# Logins that are open; the cookie's token is kept as a hash. messaging.access.sessions.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("operator", String(40), nullable=False),
    Column("address", String(64)),
    Column("agent", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Index("ix_sessions_operator", "operator"),
)

# Wrong passwords by name and by address, in steady time. messaging.access.login_throttle.
login_failures = Table(
    "login_failures",
    metadata,
    Column("who", String(80), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("failed_at", UtcDateTime, nullable=False),
    Column("locked_until", UtcDateTime, nullable=False),
)

# How many sends a key, an operator or an address was granted in a minute (steady time). messaging.access.send_throttle.
send_buckets = Table(
    "send_buckets",
    metadata,
    Column("who", String(80), primary_key=True),
    Column("minute_at", UtcDateTime, nullable=False),
    Column("taken", Integer, nullable=False),
)

# What persons and keys changed; rows are added and never changed. messaging.access.actions.
actions = Table(
    "actions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("address", String(64)),
    Column("action", String(40), nullable=False),
    Column("subject", String(80), nullable=False),
    # JSON objects.
    Column("before", Text),
    Column("after", Text),
    Index("ix_actions_actor", "actor", "id"),
    Index("ix_actions_subject", "subject", "id"),
)

# Refused callbacks (wrong token) are only counted.
counters = Table(
    "counters",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# The words of texts (messaging.messages.search). No `Table`, for the stores have nothing in common here, and SQLite
# keeps it in tables of its own whose names begin so.
SEARCH = "message_search"
_SEARCH_TABLES = {
    "sqlite": (
        "CREATE VIRTUAL TABLE IF NOT EXISTS message_search USING fts5"
        "(text, content='', detail=none, columnsize=0, tokenize='unicode61 remove_diacritics 0')",
    ),
    "postgresql": (
        "CREATE TABLE IF NOT EXISTS message_search ("
        "message_id BIGINT CONSTRAINT pk_message_search PRIMARY KEY"
        " CONSTRAINT fk_message_search_message_id REFERENCES messages (id) ON DELETE CASCADE,"
        " words TSVECTOR NOT NULL)",
        "CREATE INDEX IF NOT EXISTS ix_message_search_words ON message_search USING gin (words)",
    ),
}


@event.listens_for(metadata, "after_create")
def _create_search(_metadata: MetaData, connection: Connection, **_: Any) -> None:
    for statement in _SEARCH_TABLES[connection.dialect.name]:
        connection.exec_driver_sql(statement)


def is_modelled(name: str | None, kind: str, *_: object) -> bool:
    """For Alembic's comparison: what of a database is a `Table` here."""
    return kind != "table" or not (name or "").startswith(SEARCH)
