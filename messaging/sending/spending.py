"""The limits of a day at the last check: what would pass one does not leave, and waits for a person.

Of a batch the texts stay queued and the batch is paused; a single text or a reply is held. A trigger goes whole or
not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, bindparam, update

from messaging.batch_statuses import MAY_SEND, PAUSED
from messaging.costs.daily_limits import Day, Limit
from messaging.messages import held
from messaging.sending.claim import Claim
from messaging.sending.last_check import Released, leave_out
from messaging.storage import tables
from utils.reasons import DAILY_LIMIT

# What a person has just let go past the limit is not paused again by a claim from before.
_PAUSE = (
    update(tables.batches)
    .where(
        tables.batches.c.id == bindparam("batch_id"),
        tables.batches.c.status.in_(MAY_SEND),
        tables.batches.c.passes_limits.is_(False),
    )
    .values(status=PAUSED, reason=DAILY_LIMIT, detail=bindparam("new_detail"))
)


def keep_within_limits(
    connection: Connection, claims: Iterable[Claim], now: datetime
) -> Mapping[int, Claim | Released]:
    """By attempt, those that a limit concerns: without the texts that would pass it. What stays is counted.

    In the transaction that holds the rate limit's row, just before the claims are marked as leaving.
    """
    found: dict[int, Claim | Released] = {}
    concerned = [(one, one.charges) for one in claims if one.charges is not None]
    if not concerned:
        return found
    limits = {limit for _, charges in concerned for limit in charges.limits}
    day = Day(connection, now, concerned[0][1].time_zone, limits)
    braked: dict[int, Limit] = {}
    for claim, charges in concerned:
        mine = {to: one for to, one in charges.by_recipient.items() if to in claim.recipients}
        theirs = day.with_prices(claim.sender_id, claim.text, mine)
        # The answer takes the place of what is counted here.
        claim = replace(claim, charges=charges._replace(by_recipient=theirs))
        over = day.admit(claim.attempt_id, theirs, is_whole=claim.is_trigger)
        if not over:
            found[claim.attempt_id] = claim
        elif claim.is_trigger:
            found[claim.attempt_id] = Released(DAILY_LIMIT)
        else:
            left = leave_out(connection, claim, over.keys())
            _hold_singles(connection, claim, over, now)
            for batch_id, limit in _batches(claim, over):
                braked.setdefault(batch_id, limit)
            found[claim.attempt_id] = left or Released(DAILY_LIMIT)
    day.write()
    # Of all claims together: a claim of a batch with a max_cost locks several rows of batches too, in this order.
    for batch_id, limit in sorted(braked.items()):
        connection.execute(_PAUSE, {"batch_id": batch_id, "new_detail": str(limit)})
    return found


def _hold_singles(connection: Connection, claim: Claim, over: Mapping[str, Limit], now: datetime) -> None:
    """They are queued again already."""
    singles: dict[Limit, list[int]] = {}
    for recipient, limit in over.items():
        if _batch_of(claim, recipient) is None:
            singles.setdefault(limit, []).append(claim.recipients[recipient])
    for limit, ids in singles.items():
        held.hold(connection, ids, DAILY_LIMIT, now, detail=f"{DAILY_LIMIT}: {limit}")


def _batches(claim: Claim, over: Mapping[str, Limit]) -> Iterator[tuple[int, Limit]]:
    for recipient, limit in over.items():
        batch_id = _batch_of(claim, recipient)
        if batch_id is not None:
            yield batch_id, limit


def _batch_of(claim: Claim, recipient: str) -> int | None:
    """None: a text of its own."""
    return None if claim.urgent or claim.charges is None else claim.charges.by_recipient[recipient].batch_id
