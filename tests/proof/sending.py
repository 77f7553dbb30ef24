"""Scenarios of texts on their way out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO

from sqlalchemy import select

from messaging import statuses
from messaging.batches import control
from messaging.batches.importer import import_next
from messaging.sending import claim as claims
from messaging.sending import pauses
from messaging.sending.sender import ask_provider, write_outcome
from messaging.sending.start_post import Posting
from messaging.storage import tables
from tests.crash import load
from tests.crash.books import Books
from tests.proof.scenario import DIES, KILLED, OVERTAKEN, SETTLED, STALLED, Call, Scenario, repeat_callbacks
from tests.proof.world import TIME, World
from tests.support.delivery import begin, phone, phones
from tests.support.web import API_KEY

ALL_WAYS = (DIES, KILLED, STALLED, OVERTAKEN)

FIRST = Call(load.API, "key-1", "The first text", (phone(1), phone(2)))
SECOND = Call(load.API, "key-2", "The second text", (phone(1),))


def send_by_api(world: World) -> None:
    """Two texts to one person, so that their order counts."""
    FIRST.make(world)
    SECOND.make(world)
    world.sender().run_until_idle()


NOW = Call(load.TRIGGER, "key-3", "A text of now", (phone(1), phone(2)))


def trigger(world: World) -> None:
    NOW.make(world)


SHARED = Call(load.API, "key-4", "One text for all", tuple(phones(12)))


def accept_shared(world: World) -> None:
    SHARED.make(world)


def send_all(world: World) -> None:
    world.sender().run_until_idle()


FILE = "phone,name\n" + "".join(f"{one},Person {number}\n" for number, one in enumerate(phones(3)))
PERSONAL = {(one, f"Dear Person {number}") for number, one in enumerate(phones(3))}


def upload(world: World, **more: str) -> None:
    form = {"file": (BytesIO(FILE.encode()), "people.csv"), "text": "Dear {{name}}", **more}
    client = world.app.test_client()
    headers = {"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": "key-5"}
    world.call("key-5", lambda: client.post("/v1/batches", data=form, headers=headers))


def import_file(world: World) -> None:
    import_next(world.database, world.settings, lambda: False)


def upload_and_import(world: World) -> None:
    upload(world)
    import_file(world)


def repeat_upload(world: World) -> None:
    if not any(one.get("key") == "key-5" and one["status"] == 202 for one in world.heard):
        upload(world)


def whole_file(_world: World, books: Books) -> Iterator[str]:
    if books.messages.keys() != PERSONAL:
        yield f"of the file {sorted(PERSONAL - books.messages.keys())} are missing"
    yield from (f"{key} is {len(rows)} messages" for key, rows in books.messages.items() if len(rows) != 1)


# Of a text: 0.80. So one of three may leave.
LIMIT = {"max_cost": "KES 1.00"}


def upload_limited(world: World) -> None:
    upload(world, **LIMIT)
    import_file(world)


def cancel_rest(world: World) -> None:
    """What the limit holds would wait for ever."""
    with world.database.read() as connection:
        paused = connection.execute(select(tables.batches.c.id).where(tables.batches.c.status == "paused"))
        ids = list(paused.scalars())
    for batch_id in ids:
        control.cancel(world.database, batch_id)


def within_limit(_world: World, books: Books) -> Iterator[str]:
    if len(books.taken) > 1:
        yield f"{len(books.taken)} texts left where the limit allows one"


LATER = Call(load.API, "key-10", "The first, for later", (phone(1),))
SOON = Call(load.API, "key-11", "The second, for now", (phone(1),))


def accept_later_and_soon(world: World) -> None:
    """A while ago: callbacks go by the real clock, and come when the minutes of the run are over."""
    TIME.pass_by(minutes=-EARLIER_MINUTES)
    send_at = datetime.now(UTC) + timedelta(minutes=LATER_MINUTES - EARLIER_MINUTES)
    world.send(LATER.key, list(LATER.to), LATER.text, send_at=send_at.isoformat())
    SOON.make(world)


def post_in_wrong_order(world: World) -> None:
    """The second is claimed before the first is due. Both are asked for before either leaves."""
    lease = timedelta(minutes=20)
    second = claim_one(world, lease)
    TIME.pass_by(minutes=LATER_MINUTES + 1)
    first = claim_one(world, lease)
    turns = [begin(world.database, claim, lease=lease) for claim in (first, second)]
    for turn in reversed(turns):
        if isinstance(turn, Posting):
            write_outcome(world.database, turn, ask_provider(world.service.provider, turn, 10.0))


def claim_one(world: World, lease: timedelta = claims.LEASE_AFTER_TIMEOUT) -> claims.Claim:
    limits = claims.ClaimLimits(20, lease)
    (claim,) = claims.claim_due(world.database, "a-worker", limits).claims
    return claim


def post(world: World, claim: claims.Claim) -> None:
    turn = begin(world.database, claim)
    if isinstance(turn, Posting):
        write_outcome(world.database, turn, ask_provider(world.service.provider, turn, 10.0))


# Less than the first of the hours that pass behind a run.
LATER_MINUTES = 4
EARLIER_MINUTES = 10
AWAITED = Call(load.API, "key-6", "A text that is reported early", (phone(1),))


def accept_awaited(world: World) -> None:
    AWAITED.make(world)


def report_before_answer(world: World) -> None:
    """AT's report is here, and applied, before its answer is written down."""
    limits = claims.ClaimLimits(20, claims.LEASE_AFTER_TIMEOUT)
    taken = claims.claim_due(world.database, "a-worker", limits).claims
    turn = begin(world.database, taken[0]) if taken else None
    # Another worker may have sent it while this one stood still.
    if not isinstance(turn, Posting):
        return
    answer = ask_provider(world.service.provider, turn, 10.0)
    for text in world.provider.look()["ledger"]:
        if world.report(text["id"], text["to"]).status_code == 200:
            world.say("reported", key=text["id"])
    world.work()
    write_outcome(world.database, turn, answer)


STOP = ("opt-out", {"phoneNumber": phone(1)})
STOPPED = Call(load.API, "key-7", "A text that nobody wants", (phone(1), phone(2)))


def accept_stopped(world: World) -> None:
    STOPPED.make(world)


def stop_between(world: World) -> None:
    claim = claim_one(world)
    world.callback(*STOP)
    post(world, claim)


def repeat_stop(world: World) -> None:
    repeat_callbacks(world, STOP)


def never_texted(_world: World, books: Books) -> Iterator[str]:
    yield from (f"{key} was texted after STOP" for key in books.taken if key[0] == phone(1))


CANCELLED = Call(load.API, "key-8", "A text that is taken back", tuple(phones(12)))


def accept_cancelled(world: World) -> None:
    CANCELLED.make(world)


def cancel_between(world: World) -> None:
    claim = claim_one(world)
    control.cancel(world.database, 1)
    world.say("cancelled")
    post(world, claim)


def repeat_cancel(world: World) -> None:
    if not any(one["kind"] == "cancelled" for one in world.heard):
        control.cancel(world.database, 1)


def nobody_texted(_world: World, books: Books) -> Iterator[str]:
    yield from (f"{key} was texted after the batch was cancelled" for key in books.taken)


REFUSED = Call(load.API, "key-9", "A text without money", (phone(1), phone(2)))


def accept_refused(world: World) -> None:
    TIME.pass_by(minutes=-EARLIER_MINUTES)
    REFUSED.make(world)


def pause_and_probe(world: World) -> None:
    """AT says that there is no money; then there is, and the probe finds out."""
    world.sender().run_until_idle()
    TIME.pass_by(minutes=1)
    pauses.probe(world.database, world.service.provider)
    world.sender().run_until_idle()


SCENARIOS = [
    Scenario("send by API", send_by_api, calls=(FIRST, SECOND), ways=ALL_WAYS),
    Scenario(
        "trigger",
        trigger,
        calls=(NOW,),
        statuses=SETTLED | {statuses.CANCELLED},
        ways=(DIES, KILLED, STALLED),
    ),
    Scenario(
        "batch of three POSTs",
        send_all,
        set_up=accept_shared,
        calls=(SHARED,),
        settings={"at_max_recipients": 5},
        ways=ALL_WAYS,
    ),
    Scenario(
        "personalised batch",
        send_all,
        set_up=upload_and_import,
        finish=repeat_upload,
        more=whole_file,
        ways=ALL_WAYS,
    ),
    Scenario(
        "batch with a limit of its cost",
        send_all,
        set_up=upload_limited,
        finish=repeat_upload,
        end=cancel_rest,
        statuses=SETTLED | {statuses.CANCELLED},
        more=within_limit,
        ways=ALL_WAYS,
    ),
    Scenario(
        "a later text that was claimed first",
        post_in_wrong_order,
        set_up=accept_later_and_soon,
        calls=(LATER, SOON),
        ways=(DIES, KILLED),
    ),
    Scenario("report before the answer", report_before_answer, set_up=accept_awaited, calls=(AWAITED,)),
    Scenario(
        "STOP between claim and POST",
        stop_between,
        set_up=accept_stopped,
        finish=repeat_stop,
        calls=(STOPPED,),
        statuses=SETTLED | {statuses.BLOCKED},
        more=never_texted,
        ways=(DIES, KILLED),
    ),
    Scenario(
        "cancel between claim and POST",
        cancel_between,
        set_up=accept_cancelled,
        finish=repeat_cancel,
        calls=(CANCELLED,),
        statuses=frozenset({statuses.CANCELLED}),
        more=nobody_texted,
        ways=(DIES, KILLED),
    ),
    Scenario(
        "pause and probe",
        pause_and_probe,
        set_up=accept_refused,
        calls=(REFUSED,),
        provider={"refuse": 1},
        ways=(DIES, KILLED),
    ),
]
