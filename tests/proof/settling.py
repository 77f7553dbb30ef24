"""After the death: a new process, everybody outside repeats what was not answered, time passes, and the judge comes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select

from messaging import statuses
from messaging.callbacks import journal
from messaging.operations.audit import audit
from messaging.storage import tables
from tests.crash.books import Books, Taken, books_of
from tests.crash.judge import judge
from tests.crash.load import OPEN
from tests.proof.scenario import OVERTAKEN, STALLED, Scenario
from tests.proof.world import TIME, World

# More than a lease, and than the longest step of the circuit breaker.
ROUND_MINUTES = 6
MOST_ROUNDS = 12


def settle(world: World, scenario: Scenario) -> list[str]:
    """What never came to rest; empty: everything did."""
    for number in range(MOST_ROUNDS):
        TIME.pass_by(minutes=ROUND_MINUTES)
        if number == 0:
            scenario.finish(world)
        _repeat_calls(world, scenario)
        world.work()
        report_all(world)
        world.hear_reports()
        scenario.end(world)
        # What is unknown may still be told of: by a report that a sweep has to join.
        ignored = set() if number == 0 else {"unknown"}
        rest = {what: some for what, some in _what_is_open(world, scenario).items() if what not in ignored}
        if not rest:
            return []
    return [f"after an hour these are not at rest: {rest}"]


def work_beside(world: World) -> None:
    """Another worker, while the watched process stands still."""
    world.work()
    report_all(world)
    world.hear_reports()


def report_all(world: World) -> None:
    """AT reports once what became of each text that it took."""
    told = {one["key"] for one in world.heard if one["kind"] == "reported"}
    for text in world.provider.look()["ledger"]:
        if text["id"] not in told and world.report(text["id"], text["to"]).status_code == 200:
            world.say("reported", key=text["id"])


def _repeat_calls(world: World, scenario: Scenario) -> None:
    for call in scenario.calls:
        if call.promise(world).outcome == OPEN:
            call.make(world)


def _what_is_open(world: World, scenario: Scenario) -> dict[str, Any]:
    found: dict[str, Any] = {
        call.text: "has no definite answer" for call in scenario.calls if call.promise(world).outcome == OPEN
    }
    with world.database.read() as connection:
        moving = tables.messages.c.status.in_((statuses.QUEUED, statuses.SENDING))
        open_attempt = tables.attempts.c.state.in_(("claimed", "posting"))
        waiting = {
            "unknown": select(func.count()).where(tables.messages.c.status == statuses.UNKNOWN),
            "messages": select(func.count()).where(moving),
            "attempts": select(func.count()).where(open_attempt),
            "reports": select(func.count()).where(tables.callbacks.c.outcome == journal.RECEIVED),
            "batches": select(func.count()).select_from(tables.batches).where(tables.RECEIVING),
            "events": select(func.count()).select_from(tables.forward_events).where(tables.TO_FORWARD),
        }
        found |= {name: connection.execute(statement).scalar_one() for name, statement in waiting.items()}
    return {name: number for name, number in found.items() if number}


def verdict(world: World, scenario: Scenario, way: str) -> list[str]:
    """Every broken promise in words."""
    ledger = world.provider.look()["ledger"]
    taken = [Taken(one["to"], one["text"], one["id"], True, "Success") for one in ledger]
    books = books_of(world.database, taken, Counter((one["to"], one["text"]) for one in ledger))
    problems = judge(books, [call.promise(world) for call in scenario.calls], ())
    problems += _wrong_statuses(books, scenario, way)
    if way != STALLED:
        # A text in doubt holds up nobody, and its bytes may still be on their way.
        problems += _out_of_order(books, ledger)
    problems += scenario.more(world, books)
    problems += [f"audit: {one.kind}, {one.detail}" for one in audit(world.database).problems]
    return problems


def _wrong_statuses(books: Books, scenario: Scenario, way: str) -> Iterator[str]:
    """Where no lease has ended, nothing may be called unknown."""
    allowed = scenario.statuses - ({statuses.UNKNOWN} if way == OVERTAKEN else set())
    for key, rows in books.messages.items():
        for row in rows:
            if row.status not in allowed:
                yield f"{key} is {row.status} ({row.reason})"


def _out_of_order(books: Books, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """One person's texts of one priority came in the order in which they were asked for."""
    ids: dict[tuple[str, int], list[int]] = defaultdict(list)
    for one in ledger:
        for row in books.messages.get((one["to"], one["text"]), ()):
            ids[row.recipient, row.priority].append(row.id)
    for (recipient, _), came in ids.items():
        if came != sorted(came):
            yield f"{recipient} got the texts in the order {came}"
