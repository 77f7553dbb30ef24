"""Scenarios of what AT tells us, and of what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import select

from messaging import statuses
from messaging.callbacks.received import apply_received
from messaging.storage import tables
from tests.crash import load
from tests.crash.books import Books
from tests.proof.scenario import DIES, KILLED, OVERTAKEN, SETTLED, STALLED, Call, Scenario, repeat_callbacks
from tests.proof.settling import report_all
from tests.proof.world import SHORTCODE, World
from tests.support.delivery import phone, phones
from tests.support.web import TOKEN

ALL_WAYS = (DIES, KILLED, STALLED, OVERTAKEN)
DELIVERED = frozenset({statuses.DELIVERED})

SENT = Call(load.API, "key-20", "A text that is reported", tuple(phones(3)))


def send(world: World) -> None:
    SENT.make(world)
    world.sender().run_until_idle()


def apply_reports(world: World) -> None:
    """The first of them comes twice."""
    text = world.provider.look()["ledger"][0]
    world.report(text["id"], text["to"])
    report_all(world)
    apply_received(world.database, world.settings)


def once_each(world: World, _books: Books) -> Iterator[str]:
    with world.database.read() as connection:
        applied = Counter(connection.execute(select(tables.delivery_reports.c.callback_id)).scalars())
    yield from (f"the report {one} took effect {times} times" for one, times in applied.items() if times > 1)


ASKED = Call(load.INBOUND, "inbound-1", "Are you open?", (phone(1),))


def answer_inbound(world: World) -> None:
    """It comes twice, as AT does where an answer is late."""
    ASKED.make(world)
    ASKED.make(world)
    world.sender().run_until_idle()


UNWANTED = Call(load.API, "key-21", "A text that comes too late", (phone(1), phone(2)))
SAYS_STOP = (
    "twoway",
    {"from": phone(1), "to": SHORTCODE, "text": "STOP", "id": "inbound-2", "linkId": "link-2"},
)


def accept_unwanted(world: World) -> None:
    UNWANTED.make(world)


def stop_by_text(world: World) -> None:
    world.callback(*SAYS_STOP)
    world.sender().run_until_idle()


def repeat_stop_by_text(world: World) -> None:
    repeat_callbacks(world, SAYS_STOP)


def only_confirmed(_world: World, books: Books) -> Iterator[str]:
    """The one answer to STOP, and nothing else."""
    got = [key for key in books.taken if key[0] == phone(1)]
    if (phone(1), UNWANTED.text) in got:
        yield "a text left after STOP"
    rows = [row for key, each in books.messages.items() if key[0] == phone(1) for row in each]
    if sum(row.inbound_id is not None for row in rows) != 1:
        yield f"STOP has {len(rows)} answers"


STRANGER = ("opt-out", {"phoneNumber": phone(1)})
KEPT = Call(load.API, "key-22", "A text that nobody stopped", (phone(1),))


def hear_stranger(world: World) -> None:
    """Without the token, and with a wrong one."""
    for token in (None, TOKEN[:-1]):
        world.caller.callback(f"/sms/{STRANGER[0]}", STRANGER[1], token=token)
    KEPT.make(world)
    world.sender().run_until_idle()


def forward(world: World) -> None:
    """An event of a text that came and, from the set-up, one of each text that was delivered."""
    ASKED.make(world)
    world.forward()


def send_and_report(world: World) -> None:
    send(world)
    report_all(world)
    apply_received(world.database, world.settings)


def all_forwarded(world: World, _books: Books) -> Iterator[str]:
    with world.database.read() as connection:
        rows = connection.execute(select(tables.forward_events)).all()
    posted: dict[str, set[str]] = {}
    for one in world.provider.look()["events"]:
        posted.setdefault(one["id"], set()).add(one["body"])
    yield from (f"the event {row.type} was never forwarded" for row in rows if row.event_id not in posted)
    yield from (f"the event {one} has two bodies" for one, bodies in posted.items() if len(bodies) > 1)
    if len(rows) < len(SENT.to) + 1:
        yield f"only {len(rows)} events were noted"


SCENARIOS = [
    Scenario(
        "reports applied",
        apply_reports,
        set_up=send,
        calls=(SENT,),
        statuses=DELIVERED,
        more=once_each,
        ways=ALL_WAYS,
    ),
    Scenario("inbound text with a reply", answer_inbound, calls=(ASKED,), ways=ALL_WAYS),
    Scenario(
        "STOP by text",
        stop_by_text,
        set_up=accept_unwanted,
        finish=repeat_stop_by_text,
        calls=(UNWANTED,),
        statuses=SETTLED | {statuses.BLOCKED},
        more=only_confirmed,
        ways=(DIES, KILLED),
    ),
    Scenario("callback of a stranger", hear_stranger, calls=(KEPT,), ways=(DIES, KILLED)),
    Scenario(
        "forwarding",
        forward,
        set_up=send_and_report,
        calls=(SENT, ASKED),
        more=all_forwarded,
        settings={
            "forward_url": "{provider}/events",
            "forward_secret": f"whsec_{'A' * 43}=",
            "forward_allow_private": True,
        },
        ways=ALL_WAYS,
    ),
]
