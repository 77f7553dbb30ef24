"""All that two workers, AT, time, a STOP and a restored backup can do to two texts of one person, to a stated depth.

    python -m tests.proof.model [--depth N] [--most-seconds N]

Every state is one of the real database (SQLite) and of the real functions; only AT and the clocks are made up. From
each state every event that can happen is tried, states that were seen before are left out, and the promises are asked
after each event. From each state all workers also die, and one new worker must bring every text to its end.
"""

from __future__ import annotations

import logging
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from sqlalchemy import select

from messaging import statuses
from messaging.callbacks.receive import CallbackReceiver
from messaging.callbacks.received import apply_received
from messaging.operations import health, sweep
from messaging.operations.audit import audit
from messaging.operations.recovery import Recoverer
from messaging.sending import claim as claims
from messaging.sending.claim import Claim
from messaging.sending.sender import write_outcome
from messaging.sending.start_post import Posting
from messaging.sending.witness import Witness, files_in
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.rollback import RollbackCheck
from tests.proof.stores import SqliteStore
from tests.support.callback_rows import SHORTCODE, report
from tests.support.delivery import LEASE, Clock, begin, live_settings, opt_out, phone, queue
from utils.errors import OutcomeUnknown, ProviderError, Recovering
from utils.provider_answers import RecipientAnswer, SendAnswer

PERSON = phone(1)
TEXTS = ("first", "second")
LIMITS = claims.ClaimLimits(1, LEASE, posts=1)
MINUTES = 6
MOST_PASSES = 2
# The first is made at the start.
MOST_COPIES = 2
ROUNDS_TO_END = 3
# Time goes on without a sweep here, which the audit rightly complains of.
LATE = {"lease_overdue", "report_not_applied"}
GONE = {statuses.ACCEPTED, statuses.DELIVERED, statuses.UNKNOWN, statuses.SENDING}


@dataclass(frozen=True)
class State:
    """`rows`: the database's file; `copy`: its backup, and what decides what may follow from there. `noted`: texts in
    the witness. `taken`: texts that AT took, in order. `held`: what each worker has in mind.
    """

    rows: bytes
    witness: bytes = b""
    copy: tuple[bytes, object] = (b"", None)
    copies: int = 0
    is_restored: bool = False
    noted: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    reported: frozenset[str] = frozenset()
    held: tuple[Any, ...] = (None, None)
    passed: int = 0
    is_stopped: bool = False
    events: tuple[str, ...] = ()


class Broken(AssertionError):
    pass


@dataclass
class Model:
    store: SqliteStore
    database: Database = field(init=False)
    clock: Clock = field(init=False)
    now: State = field(init=False)

    def __post_init__(self) -> None:
        self.store.empty()
        folder = self.store.folder / "witness"
        self.settings = live_settings(self.store.url, "http://127.0.0.1:9", witness_dir=str(folder))
        self.path = Path(self.store.url.removeprefix("sqlite:///"))
        self.database = Database(self.store.url, pool_size=2)
        self.clock = Clock(self.database)
        for text in TEXTS:
            queue(self.database, PERSON, text=text)
        self._start()
        self.recover()
        self.now = State(b"")
        self.back_up()
        self.now = self.save(self.now)

    def _start(self) -> None:
        """The process knows what the witness says, and nothing else."""
        self.database.rollback = RollbackCheck()
        self.witness = Witness(self.settings, self.database)

    def save(self, state: State) -> State:
        self.database.engine.dispose()
        self.witness.close()
        lines = b"".join(path.read_bytes() for path in files_in(self.witness.folder))
        return replace(state, rows=zlib.compress(self.path.read_bytes(), 1), witness=zlib.compress(lines, 1))

    def load(self, state: State) -> None:
        self.witness.close()
        for path in files_in(self.witness.folder):
            path.unlink()
        self._start()
        # The file of this process begins with what all before it wrote.
        self.witness._write(zlib.decompress(state.witness))
        self._put_rows(state.rows)
        self.clock.step(minutes=MINUTES * (state.passed - self.now.passed))
        self.now = state

    def _put_rows(self, rows: bytes) -> None:
        self.database.engine.dispose()
        self.path.write_bytes(zlib.decompress(rows))

    def possible(self) -> Iterator[str]:
        for worker, held in enumerate(self.now.held):
            kinds = {type(None): ["claim"], Claim: ["check", "die"], Posting: ["post", "lose", "die"]}
            yield from (f"{kind} {worker}" for kind in kinds.get(type(held), ["record", "die"]))
        yield from (f"report {text}" for text in {*self.now.taken} - self.now.reported)
        if self.now.passed < MOST_PASSES:
            yield "time"
        if not self.now.is_stopped:
            yield "stop"
        yield from ("sweep", "apply")
        if self.now.is_restored:
            yield "recover"
        else:
            yield "restore"
            if self.now.copies < MOST_COPIES:
                yield "back_up"

    def do(self, event: str) -> None:
        kind, _, whose = event.partition(" ")
        self.now = replace(self.now, events=(*self.now.events, event))
        if whose.isdigit():
            worker, held = int(whose), list(self.now.held)
            held[worker] = getattr(self, kind)(held[worker])
            self.now = replace(self.now, held=tuple(held))
        elif whose:
            self.report(whose)
        else:
            with suppress(Recovering):
                getattr(self, kind)()

    def claim(self, _held: None) -> Claim | None:
        try:
            return next(iter(claims.claim_due(self.database, "worker", LIMITS).claims), None)
        except Recovering:
            return None

    def check(self, held: Claim) -> Posting | None:
        try:
            turn = begin(self.database, held)
        except Recovering:
            return None
        if not isinstance(turn, Posting):
            return None
        if self.now.is_stopped:
            raise Broken("a text leaves after STOP")
        self.witness.note(turn)
        self.now = replace(self.now, noted=(*self.now.noted, held.text))
        return turn

    def post(self, held: Posting) -> tuple[Posting, SendAnswer]:
        number = len(self.now.taken) + 1
        self.now = replace(self.now, taken=(*self.now.taken, held.claim.text))
        found = RecipientAnswer(
            PERSON, "accepted", status_word="Success", provider_message_id=f"ATXid_{held.claim.text}"
        )
        return held, SendAnswer({}, 201, f"Sent to {number}", {PERSON: found}, [])

    def lose(self, held: Posting) -> tuple[Posting, ProviderError]:
        """AT takes the text, and its answer is lost."""
        self.post(held)
        return held, OutcomeUnknown(reason="timed_out")

    def record(self, held: tuple[Posting, SendAnswer | ProviderError]) -> None:
        write_outcome(self.database, *held)

    def die(self, _held: Any) -> None:
        return None

    def time(self) -> None:
        self.clock.step(minutes=MINUTES)
        self.now = replace(self.now, passed=self.now.passed + 1)

    def stop(self) -> None:
        opt_out(self.database, PERSON)
        self.now = replace(self.now, is_stopped=True)

    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]:
        """A STOP came by text, and AT keeps it."""
        is_there = self.now.is_stopped and int(last_received_id) < 1
        return [{"id": 1, "from": PERSON, "to": SHORTCODE, "text": "STOP"}] if is_there else []

    def back_up(self) -> None:
        """And a heartbeat, as one comes each few seconds."""
        self.database.engine.dispose()
        copy = zlib.compress(self.path.read_bytes(), 1), self.key()
        beat = health.beat(self.database, "worker")
        if beat is not None:
            self.witness.note_beat(beat)
        self.now = replace(self.now, copy=copy, copies=self.now.copies + 1)

    def restore(self) -> None:
        """While nothing runs."""
        self._put_rows(self.now.copy[0])
        self._start()
        self.now = replace(self.now, is_restored=True, held=(None, None))

    def recover(self) -> None:
        recoverer = Recoverer(self.settings, self.database, self)
        while recoverer.step():
            pass

    def sweep(self) -> None:
        sweep.sweep(self.database, self.settings)

    def apply(self) -> None:
        apply_received(self.database, self.settings)

    def report(self, text: str) -> None:
        receiver = CallbackReceiver(self.database, self.settings)
        receiver.receive("report", report(f"ATXid_{text}", phone=PERSON))
        receiver.stop()
        self.now = replace(self.now, reported=self.now.reported | {text})

    def is_behind(self) -> bool:
        """The database was restored, and its recovery is not over: it does not know yet what has left."""
        with self.database.read() as connection:
            closed = connection.execute(select(tables.recoveries.c.closed_at.is_not(None))).scalar()
        return self.now.is_restored and not closed

    def messages(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(tables.messages).order_by(tables.messages.c.id)))

    def require_promises(self) -> None:
        if twice := [text for text, times in Counter(self.now.taken).items() if times > 1]:
            raise Broken(f"{twice} were sent twice")
        if list(self.now.taken) != sorted(self.now.taken):
            raise Broken(f"the texts came in the order {self.now.taken}")
        for row in self.messages():
            if row.text in self.now.taken and row.status not in GONE and not self.is_behind():
                raise Broken(f"{row.text} was sent and is {row.status}")
        if problems := [one for one in audit(self.database).problems if one.kind not in LATE]:
            raise Broken(f"the audit says {problems}")

    def require_end(self) -> None:
        """All die, and AT tells what it has not told; a new worker comes."""
        self.now = replace(self.now, held=(None, None))
        for _ in range(ROUNDS_TO_END):
            for event in (
                "time",
                "sweep",
                "recover",
                *("claim 0", "check 0", "post 0", "record 0") * len(TEXTS),
            ):
                if event.endswith("0") and not event.startswith("claim") and self.now.held[0] is None:
                    continue
                self.do(event)
            for text in {*self.now.taken} - self.now.reported:
                self.do(f"report {text}")
            self.do("apply")
        self.require_promises()
        ends = {row.text: row.status for row in self.messages()}
        if set(ends.values()) - {statuses.DELIVERED, statuses.UNKNOWN, statuses.BLOCKED}:
            raise Broken(f"in the end they are {ends}")
        if statuses.BLOCKED in ends.values() and not self.now.is_stopped:
            raise Broken("a text is blocked without a STOP")

    def key(self) -> object:
        """What of a state decides what may follow: without dates, which differ each time."""
        attempts, messages = tables.attempts.c, tables.messages.c
        asked = (
            select(messages.id, messages.status, messages.reason, messages.attempt_id, messages.tries),
            select(messages.id, messages.provider_message_id, messages.due_at > messages.created_at),
            select(attempts.id, attempts.state, attempts.posting_at.is_(None)),
            select(tables.suppressions.c.phone),
            select(tables.callbacks.c.outcome, tables.callbacks.c.id),
            select(tables.delivery_reports.c.callback_id, tables.delivery_reports.c.message_id),
            select(tables.circuit_breakers.c.step),
            select(tables.recoveries.c.closed_at.is_(None)),
        )
        with self.database.read() as connection:
            now = wall_clock(connection)
            rows = tuple(tuple(map(tuple, connection.execute(one).all())) for one in asked)
            over = tuple(connection.execute(select(attempts.id).where(attempts.lease_until < now)).scalars())
        held = tuple((type(one).__name__, str(_claim_of(one))) for one in self.now.held)
        known = (self.now.taken, self.now.reported, self.now.passed, self.now.is_stopped)
        copied = (self.now.noted, self.now.is_restored, self.now.copies, self.now.copy[1])
        return rows, over, held, known, copied


def _claim_of(held: Any) -> Any:
    """Without the dates that a `Posting` knows."""
    if isinstance(held, tuple):
        return _claim_of(held[0]), type(held[1]).__name__
    return held.claim if isinstance(held, Posting) else held


def explore(model: Model, depth: int, until: float) -> Iterator[tuple[int, int]]:
    """Yields after each depth how many states are new there, and how many events were tried."""
    frontier, seen = [model.now], {model.key()}
    for _ in range(depth):
        found: list[State] = []
        tried = 0
        for state in frontier:
            model.load(state)
            for event in list(model.possible()):
                model.load(state)
                model.do(event)
                model.require_promises()
                tried += 1
                if (key := model.key()) not in seen:
                    seen.add(key)
                    found.append(model.save(model.now))
                    model.require_end()
                if time.monotonic() > until:
                    return
        frontier = found
        yield len(found), tried


@click.command()
@click.option("--depth", default=8, show_default=True, help="events behind one another")
@click.option("--most-seconds", default=600, show_default=True)
def main(depth: int, most_seconds: int) -> None:
    """Says how many states there are at each depth, and which events broke a promise."""
    logging.disable()
    store = SqliteStore()
    try:
        model = Model(store)
        states = reached = 0
        for found, tried in explore(model, depth, time.monotonic() + most_seconds):
            reached, states = reached + 1, states + found
            click.echo(f"depth {reached}: {tried} events tried, {found} new states")
    except Broken as error:
        click.echo(f"BROKEN: {error}, after {', '.join(model.now.events)}")
        sys.exit(1)
    finally:
        store.close()
    click.echo(f"{states} states to a depth of {reached}, and from each an end that keeps every promise")
    sys.exit(0 if reached == depth else 1)


if __name__ == "__main__":
    main()
