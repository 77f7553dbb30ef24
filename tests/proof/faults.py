"""Faults that are planted in a copy of the source, and the scenario that has to find each of them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.proof.scenario import DIES, OVERTAKEN, STALLED


@dataclass(frozen=True)
class Edit:
    """`old` stands in the file exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """`finder`: the scenario that has to find it in this `way`, the pair that has to in some order, or the model."""

    name: str
    finder: str
    edits: tuple[Edit, ...]
    way: str = DIES
    store: str = "sqlite"


START = "messaging/sending/start_post.py"
CHECK = "messaging/sending/last_check.py"
RECORD = "messaging/sending/record.py"
SWEEP = "messaging/operations/sweep.py"
ACCEPT = "messaging/messages/accept.py"
CLAIM = "messaging/sending/claim.py"
MODEL = "the model"
# Instead of the question whether the database went backwards.
ONLY_IDENTITY = '__import__("messaging.storage.identity", fromlist=[""]).require_identity(connection, now)'

SENDS_AGAIN = (
    Edit(SWEEP, 'if state == "posting":', 'if state == "never":'),
    Edit(SWEEP, 'elif state == "claimed":', "elif state:"),
    Edit(CHECK, 'tables.attempts.c.state == "claimed"\n    ended', "True\n    ended"),
)

FAULTS = (
    Fault(
        "a POST is marked after it, not before",
        "send by API",
        (
            Edit(START, "    _mark(connection, posted, now)\n    return turns", "    return turns"),
            Edit(RECORD, '] in ("posting", "unknown")]', '] in ("claimed", "posting", "unknown")]'),
        ),
    ),
    Fault(
        "the sweep sends again what may have been sent",
        "send by API",
        SENDS_AGAIN,
    ),
    Fault("a POST that was lost is queued again", MODEL, SENDS_AGAIN),
    Fault(
        "the sweep calls a live lease dead",
        "send by API",
        (
            Edit(
                SWEEP,
                "tables.OPEN, tables.attempts.c.lease_until < now)",
                "tables.OPEN, tables.attempts.c.lease_until < now + timedelta(hours=1))",
            ),
            Edit(
                SWEEP,
                "tables.attempts.c.lease_until < steady(connection, now))",
                "tables.attempts.c.lease_until < steady(connection, now) + timedelta(hours=1))",
            ),
        ),
        OVERTAKEN,
    ),
    Fault(
        "a record takes rows that have gone on",
        "report before the answer",
        (
            Edit(
                RECORD,
                "        tables.messages.c.status.in_((statuses.SENDING, statuses.UNKNOWN)),\n    )",
                "    )",
            ),
        ),
        STALLED,
    ),
    Fault(
        "opt-outs are not asked again at the last check",
        "STOP between claim and POST",
        (
            Edit(
                CHECK,
                "tables.suppressions.c.phone == tables.messages.c.recipient,",
                'tables.suppressions.c.phone == "nobody",',
            ),
        ),
    ),
    Fault(
        "a cancelled batch is not asked for at the last check",
        "cancel between claim and POST",
        (
            Edit(
                CHECK,
                "    .where(or_(tables.batches.c.status.is_(None), tables.batches.c.status.in_(MAY_SEND)))\n",
                "",
            ),
        ),
    ),
    Fault(
        "the order of texts is not asked for at the last check",
        "a later text that was claimed first",
        (Edit(CHECK, "    .where(order.is_next())\n", ""),),
    ),
    Fault(
        "a callback is answered before it is durable",
        "reports applied",
        (
            Edit(
                "messaging/callbacks/receive.py",
                "            self._commits.submit(read)\n",
                "            __import__('threading').Thread(target=self._commits.submit, args=(read,)).start()\n",
            ),
        ),
    ),
    Fault(
        "the token of a callback is not compared",
        "callback of a stranger",
        (
            Edit(
                "routes/guards.py",
                'if not _has_token(request.args.get("token"), settings):',
                "if False:",
            ),
        ),
    ),
    Fault(
        "reports are applied without a turn",
        "reports applied",
        (
            Edit("messaging/callbacks/received.py", "        find.take_turn(connection)\n", ""),
            Edit(
                "messaging/callbacks/received.py",
                "for one in usable if one.callback_id in still]",
                "for one in usable]",
            ),
        ),
        OVERTAKEN,
        # SQLite's other writers wait from the look to the commit.
        "postgresql",
    ),
    Fault(
        "the idempotency key is kept in a transaction of its own",
        "send by API",
        (
            Edit(
                ACCEPT,
                "            idempotency.finish(connection, ROUTE, idempotency_key, body)\n    return",
                "            pass\n    if idempotency_key is not None:\n"
                "        with database.write() as connection:\n"
                "            idempotency.finish(connection, ROUTE, idempotency_key, body)\n    return",
            ),
        ),
    ),
    Fault(
        "an importer does not ask whether another one was there",
        "import of a file",
        (
            Edit(
                "messaging/batches/importer.py",
                "            .where(tables.RECEIVING, tables.batches.c.id == batch.id,"
                " tables.batches.c.rows_read == done)\n",
                "            .where(tables.batches.c.id == batch.id)\n",
            ),
        ),
        STALLED,
    ),
    Fault(
        "an event counts as forwarded when it is claimed",
        "forwarding",
        (
            Edit(
                "messaging/forwarding/outbox.py",
                "attempts=tables.forward_events.c.attempts + 1, due_at=now + LEASE",
                "attempts=tables.forward_events.c.attempts + 1, due_at=now + LEASE, state=DELIVERED",
            ),
        ),
    ),
    Fault(
        "a backup takes its place before it is whole",
        "backup",
        (
            Edit(
                "utils/whole_files.py",
                "        yield partial\n        os.fsync(descriptor)\n        partial.replace(target)\n",
                "        partial.replace(target)\n        yield target\n        os.fsync(descriptor)\n",
            ),
        ),
    ),
    Fault(
        "a batch may cost more than its limit",
        "batch with a limit of its cost",
        (
            Edit(
                "messaging/costs/budgets.py",
                "if price.currency != self.currency or cost > self.left:",
                "if price.currency != self.currency:",
            ),
        ),
    ),
    Fault(
        "a POST leaves without its line in the witness",
        "sending before a restore",
        (
            Edit(
                "messaging/sending/sender.py",
                "                self.witness.note(turn)\n",
                "                pass\n",
            ),
        ),
    ),
    Fault(
        "a claim does not lock the rows that it takes",
        "claim and claim",
        (
            Edit(
                "messaging/sending/due.py",
                "locking = statement.with_for_update(skip_locked=True, of=tables.messages)",
                "locking = statement",
            ),
        ),
    ),
    Fault(
        "a sweep does not lock the attempt that it calls dead",
        "record and sweep",
        (
            Edit(
                SWEEP,
                "tables.attempts.c.lease_until < steady(connection, now))\n        .with_for_update()",
                "tables.attempts.c.lease_until < steady(connection, now))",
            ),
        ),
    ),
    Fault(
        "a record does not lock the ids that reports name",
        "record and report",
        (
            Edit(
                RECORD,
                '        lock_keys(connection, [f"report:{provider_id}" for provider_id in together.provider_ids])\n',
                "        pass\n",
            ),
        ),
    ),
    Fault(
        "nobody asks before a POST whether the database went backwards",
        "claim and recovery",
        (
            Edit(CLAIM, "rollback.require(connection, now)", ONLY_IDENTITY),
            Edit(START, "rollback.require(connection, now)", ONLY_IDENTITY),
        ),
    ),
    Fault(
        "the witness is not asked for what has left",
        MODEL,
        (
            Edit(
                "messaging/storage/rollback.py",
                "            raise WentBackwards(reason)\n        return Identity",
                "            pass\n        return Identity",
            ),
        ),
    ),
)
