"""The verdict. AT's side (what it took, what the phones received) is the truth that every status is held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Row

from messaging import statuses
from tests.crash import load
from tests.crash.books import Books, Key, Taken
from tests.crash.load import Promise
from utils.provider_codes import read_report_status

REPLY = 'This is a response to: "{}"'
# With AT's id in the row, these are the only things it may say.
AFTER_ACCEPTANCE = {
    statuses.ACCEPTED,
    statuses.DELIVERED,
    statuses.FAILED,
    statuses.EXPIRED,
    statuses.NO_REPORT,
}
# Without it, these say that AT did not take the text.
NOT_TAKEN = {
    statuses.REJECTED,
    statuses.FAILED,
    statuses.EXPIRED,
    statuses.CANCELLED,
    statuses.BLOCKED,
}


def judge(books: Books, promises: Sequence[Promise], shared_numbers: Iterable[str]) -> list[str]:
    """Every contradiction in words; empty: all promises were kept and every status is true."""
    shared = set(shared_numbers)
    problems = [*_twice(books), *_without_a_row(books)]
    for key, rows in books.messages.items():
        problems += _untrue(key, rows, books.taken.get(key, ()))
        if key[0] not in shared:
            problems += _reported_and_not_known(key, rows, books.taken.get(key, ()))
    for promise in promises:
        problems += [f"{promise.kind} {promise.text}: {what}" for what in _broken(promise, books)]
    return problems


def count(books: Books) -> Counter[str]:
    rows = [row for rows in books.messages.values() for row in rows]
    counted = Counter(f"messages {row.status}" for row in rows)
    counted["messages"] = len(rows)
    counted["texts received"] = sum(books.received.values())
    counted["messages once unknown"] = len(books.once_unknown)
    counted["attempts"] = len(books.attempts)
    counted.update(books.counts)
    return counted


def _twice(books: Books) -> Iterator[str]:
    for key, times in books.received.items():
        if times > 1:
            yield f"{key} was received {times} times"
    for key, taken in books.taken.items():
        if len(taken) > 1:
            yield f"{key} was accepted by AT {len(taken)} times"


def _without_a_row(books: Books) -> Iterator[str]:
    for key in books.taken.keys() - books.messages.keys():
        yield f"{key} was sent, but no message tells of it"


def _untrue(key: Key, rows: Sequence[Row[Any]], taken: Sequence[Taken]) -> Iterator[str]:
    by_id = {one.provider_id: one for one in taken}
    owned = {row.provider_message_id for row in rows if row.provider_message_id}
    for row in rows:
        if row.provider_message_id is None:
            if row.status not in NOT_TAKEN | {statuses.UNKNOWN}:
                yield f"{key} is {row.status} without AT's id"
        elif row.provider_message_id not in by_id:
            yield f"{key} is {row.status} with an id that AT gave to another text"
        else:
            yield from _untrue_by_report(key, row, by_id[row.provider_message_id])
    unclaimed = [one for one in taken if one.provider_id not in owned]
    in_doubt = [row for row in rows if row.status == statuses.UNKNOWN and row.provider_message_id is None]
    if len(unclaimed) > len(in_doubt):
        yield f"{key} was sent, but its messages say {sorted(row.status for row in rows)}"


def _untrue_by_report(key: Key, row: Row[Any], taken: Taken) -> Iterator[str]:
    """All reports have come: so the status is the one that AT's word means, and `accepted` where none comes."""
    expected = (taken.report and read_report_status(taken.report)) or statuses.ACCEPTED
    if row.status not in AFTER_ACCEPTANCE or row.status != expected:
        yield f"{key} is {row.status}, AT's report says {taken.report}"
    if row.status == statuses.DELIVERED and not taken.is_received:
        yield f"{key} is delivered, but no phone has it"


def _reported_and_not_known(key: Key, rows: Sequence[Row[Any]], taken: Sequence[Taken]) -> Iterator[str]:
    """With one message to a number and a report for it, nothing is ambiguous: it must have been adopted."""
    is_reported = any(one.report and read_report_status(one.report) for one in taken)
    if is_reported and all(row.status == statuses.UNKNOWN for row in rows):
        yield f"{key} is unknown, though a report told of it"


def _broken(promise: Promise, books: Books) -> Iterator[str]:
    if promise.outcome == load.OPEN:
        yield f"no definite answer after {promise.tries} calls; the last: {promise.answer}"
        return
    check = {load.API: _broken_api, load.TRIGGER: _broken_trigger, load.INBOUND: _broken_inbound}
    yield from check[promise.kind](promise, books)


def _broken_api(promise: Promise, books: Books) -> Iterator[str]:
    if promise.outcome != load.ACCEPTED:
        yield f"refused: {promise.answer}"
        return
    answered = {one["to"]: one["id"] for one in promise.answer["messages"]}
    if sorted(answered) != sorted(promise.recipients):
        yield "the answer does not name the recipients"
    for recipient, message_id in answered.items():
        ids = [row.id for row in books.messages.get((recipient, promise.text), ())]
        if ids != [message_id]:
            yield f"accepted as message {message_id}, the books have {ids}"


def _broken_trigger(promise: Promise, books: Books) -> Iterator[str]:
    rows = {one: books.messages.get((one, promise.text), ()) for one in promise.recipients}
    if promise.outcome == load.ACCEPTED:
        for one in promise.answer["response"]["SMSMessageData"]["Recipients"]:
            known = {row.provider_message_id for row in rows[one["number"]]}
            if one["statusCode"] in (100, 101, 102) and one["messageId"] not in known:
                yield f"answered as sent to {one['number']}, the books have {known}"
    elif promise.outcome == load.UNKNOWN:
        if not books.once_unknown & {row.id for each in rows.values() for row in each}:
            yield "answered as unknown, the books never said so"
    else:
        sent = [one for one, each in rows.items() if books.taken.get((one, promise.text))]
        if sent:
            yield f"answered as not sent ({promise.answer}), AT took {sent}"


def _broken_inbound(promise: Promise, books: Books) -> Iterator[str]:
    inbound = books.inbound.get(promise.key)
    if inbound is None:
        yield "the text of a person is lost"
        return
    replies = books.messages.get((promise.recipients[0], REPLY.format(promise.text)), ())
    if [row.inbound_id for row in replies] != [inbound.id]:
        yield f"answered {len(replies)} times"
