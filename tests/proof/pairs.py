"""What two processes may do at the same moment, and what must be true whatever the order of their statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from messaging import statuses
from messaging.callbacks.receive import CallbackReceiver
from messaging.callbacks.received import apply_received
from messaging.operations import sweep
from messaging.operations.recovery import REASON, Recoverer
from messaging.sending import circuit_breaker
from messaging.sending import claim as claims
from messaging.sending.sender import write_outcome
from messaging.sending.start_post import Posting
from messaging.sending.witness import Witness
from messaging.storage import tables
from messaging.storage.database import Database
from tests.proof.interleaving import Trace
from tests.support.callback_rows import report
from tests.support.delivery import (
    LEASE,
    begin,
    begin_posting,
    every,
    in_write,
    message,
    opt_out,
    phone,
    queue,
)
from tests.support.snapshots import Snapshot
from utils.errors import Recovering
from utils.provider_answers import RecipientAnswer, SendAnswer
from utils.settings import Settings

ID = "ATXid_1"
# More than a lease.
LATER = timedelta(minutes=10)
LIMITS = claims.ClaimLimits(1, LEASE, posts=4)


@dataclass
class Scene:
    """Two processes have a `Database` each; a third one sets up and looks."""

    settings: Settings
    databases: tuple[Database, Database]
    own: Database
    held: Any = None


@dataclass(frozen=True)
class Pair:
    """`one` and `other` are called with the scene; `check` says in words what is wrong.

    `ahead`: how far the clock of the other process is.
    """

    name: str
    set_up: Callable[[Scene], None]
    one: Callable[[Scene], Any]
    other: Callable[[Scene], Any]
    check: Callable[[Scene, Trace], Iterator[str]]
    ahead: timedelta = timedelta()


def _queue_three(scene: Scene) -> None:
    """AT has answered before: the first claims of all wait for each other at the circuit breaker's new row."""
    in_write(scene.own, circuit_breaker.answered)
    for number in (1, 1, 2):
        queue(scene.own, phone(number))


def _claim(place: int) -> Callable[[Scene], Any]:
    return lambda scene: claims.claim_due(scene.databases[place], f"worker {place}", LIMITS).claims


def _each_once(scene: Scene, trace: Trace) -> Iterator[str]:
    ids = [one for claimed in trace.results for claim in claimed for one in claim.recipients.values()]
    if len(ids) != len(set(ids)):
        yield f"claimed twice: {ids}"
    if 2 in ids:
        yield "the second text of a person is claimed beside the first"
    if not {1, 3} <= set(ids):
        yield f"only {ids} are claimed"


def _claim_first(scene: Scene) -> None:
    queue(scene.own, phone(1))
    (scene.held,) = claims.claim_due(scene.own, "worker", LIMITS).claims


def _begin(scene: Scene) -> Any:
    return begin(scene.databases[0], scene.held)


def _stop(scene: Scene) -> None:
    opt_out(scene.databases[1], phone(1))


def _not_after_stop(scene: Scene, trace: Trace) -> Iterator[str]:
    asked, stopped = trace.place("one", "suppressions"), trace.place("other", "COMMIT")
    posts = isinstance(trace.results[0], Posting)
    # The step behind the commit is no step of its own: the next one of either comes when it is done.
    if posts and asked is not None and stopped is not None and stopped < asked:
        yield "a text leaves though STOP was durable when it was asked"
    (row,) = every(scene.own, tables.messages)
    if not posts and row.status not in (statuses.BLOCKED, statuses.QUEUED):
        yield f"nothing leaves, and the text is {row.status}"


def _sweep_later(scene: Scene) -> Any:
    """By a clock at which the lease has ended; the other process has read its own a moment before."""
    return sweep.sweep_expired_leases(scene.databases[1])


def _not_sent_and_queued(scene: Scene, trace: Trace) -> Iterator[str]:
    (row,) = every(scene.own, tables.messages)
    if isinstance(trace.results[0], Posting) and row.status == statuses.QUEUED:
        yield "a text leaves that the sweep has queued again"
    if not isinstance(trace.results[0], Posting) and row.status != statuses.QUEUED:
        yield f"nothing leaves, and the text is {row.status}"


def _post_first(scene: Scene) -> None:
    _claim_first(scene)
    scene.held = begin_posting(scene.own, scene.held)


def _answer() -> SendAnswer:
    number = phone(1)
    accepted = RecipientAnswer(number, "accepted", status_word="Success", provider_message_id=ID)
    return SendAnswer({}, 201, "Sent to 1/1", {number: accepted}, [])


def _record(scene: Scene) -> None:
    write_outcome(scene.databases[0], scene.held, _answer())


def _post_first_and_hear(scene: Scene) -> None:
    _post_first(scene)
    receiver = CallbackReceiver(scene.own, scene.settings)
    receiver.receive("report", report(ID, phone=phone(1)))
    receiver.stop()


def _apply(scene: Scene) -> None:
    apply_received(scene.databases[1], scene.settings)


def _is(status: str) -> Callable[[Scene, Trace], Iterator[str]]:
    def check(scene: Scene, _trace: Trace) -> Iterator[str]:
        (row,) = every(scene.own, tables.messages)
        if (row.status, row.provider_message_id) != (status, ID):
            yield f"the text is {row.status}, {row.provider_message_id}"
        (attempt,) = every(scene.own, tables.attempts)
        if attempt.state != "recorded":
            yield f"the attempt is {attempt.state}"

    return check


@dataclass
class _Restored:
    """`claimed`: by a worker that was about to post when the database went backwards. `left`: the id of a text that
    was sent behind the copy; only the witness knows of it.
    """

    claimed: claims.Claim
    left: int


def _put_a_copy_back(scene: Scene) -> None:
    in_write(scene.own, circuit_breaker.answered)
    queue(scene.own, phone(1))
    (claimed,) = claims.claim_due(scene.own, "worker", LIMITS).claims
    queue(scene.own, phone(2))
    copy = Snapshot(scene.own)
    (other,) = claims.claim_due(scene.own, "worker", LIMITS).claims
    witness = Witness(scene.settings, scene.own)
    witness.note(begin_posting(scene.own, other))
    witness.close()
    copy.put_back(scene.own)
    scene.held = _Restored(claimed, *other.recipients.values())


def _post_and_claim(scene: Scene) -> list[int]:
    """The POST whose claim is older than the copy, and the next one. The ids of the texts whose bytes may leave."""
    database = scene.databases[0]
    witness = Witness(scene.settings, database)
    posted: list[int] = []
    try:
        for claim in (scene.held.claimed, *claims.claim_due(database, "worker", LIMITS).claims):
            with witness.turn():
                turn = begin(database, claim)
                if isinstance(turn, Posting):
                    witness.note(turn)
                    posted += turn.claim.recipients.values()
    except Recovering:
        pass
    finally:
        witness.close()
    return posted


class _EmptyInbox:
    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]:
        return []


def _recover(scene: Scene) -> None:
    database = scene.databases[1]
    Witness(scene.settings, database)
    with suppress(Recovering):
        claims.claim_due(database, "another worker", LIMITS)
    recoverer = Recoverer(scene.settings, database, _EmptyInbox())
    while recoverer.step():
        pass


def _what_left_stays(scene: Scene, trace: Trace) -> Iterator[str]:
    left = message(scene.own, scene.held.left)
    if (left.status, left.reason) != (statuses.UNKNOWN, REASON):
        yield f"what has left is {left.status} ({left.reason})"
    (other,) = scene.held.claimed.recipients.values()
    posts, status = other in trace.results[0], message(scene.own, other).status
    if status != (statuses.SENDING if posts else statuses.QUEUED):
        yield f"the other text is {status}, and its bytes may {'' if posts else 'not '}leave"


PAIRS = [
    Pair("claim and claim", _queue_three, _claim(0), _claim(1), _each_once),
    Pair("last check and STOP", _claim_first, _begin, _stop, _not_after_stop),
    Pair("last check and sweep", _claim_first, _begin, _sweep_later, _not_sent_and_queued, LATER),
    Pair("record and sweep", _post_first, _record, _sweep_later, _is(statuses.ACCEPTED), LATER),
    Pair("record and report", _post_first_and_hear, _record, _apply, _is(statuses.DELIVERED)),
    Pair("claim and recovery", _put_a_copy_back, _post_and_claim, _recover, _what_left_stays),
]
