"""What is old, and who is forgotten, is in no file any more; counts, costs and opt-outs stay."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from flask_openapi.openapi import OpenAPI
from sqlalchemy import Connection, event, insert, select, update

from messaging.batches.importer import import_next
from messaging.consent import consents, ledger
from messaging.consent.views import LedgerFilters, lift, list_entries, stop
from messaging.conversations.inbound_views import release
from messaging.forwarding.events import FORWARDS
from messaging.messages import search
from messaging.messages.held import NotHeld
from messaging.messages.queue import NewMessage, enqueue
from messaging.operations import erasure
from messaging.operations import forget as forgetting
from messaging.operations.audit import audit
from messaging.operations.backup import back_up
from messaging.operations.forget import forget_in as forget
from messaging.sending import claim, last_check, start_post
from messaging.sending.rate_limit import Rates
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import require_identity
from tests.support.callback_rows import move_time
from tests.support.fake_provider import FakeProvider
from tests.support.web import Caller
from utils.errors import Conflict

ALICE, BEN = "+254711000701", "+254711000702"
SECRET = "Your result is ready"
HEARD = "I moved to Kisumu"
# As they may stand in a file.
FORMS = (ALICE, ALICE[1:], quote_plus(ALICE), "0711 000 701", SECRET, HEARD)
DAYS = timedelta(days=1)


@pytest.fixture
def history(app: OpenAPI, caller: Caller, database: Database) -> Caller:
    """Everything that the service ever keeps about a person, and the same about another."""
    settings = app.extensions["sms"].settings
    with database.write() as connection:
        require_identity(connection, wall_clock(connection))
    for phone in (ALICE, BEN):
        answer = caller.get(f"/sms/invoke-bulk-sms?phone={phone[1:]}&message={quote_plus(SECRET)}")
        assert answer.status_code == 200
    sent = [one["provider_message_id"] for one in reversed(caller.messages())]
    for phone, provider_id in zip((ALICE, BEN), sent, strict=True):
        report = {"id": provider_id, "status": "Success", "phoneNumber": phone}
        assert caller.callback("/sms/delivery-reports", report).status_code == 200
        said = {"from": phone, "to": "20880", "text": HEARD, "id": f"in-{phone[-1]}"}
        assert caller.callback("/sms/twoway", said).status_code == 200
        caller.callback("/sms/twoway", {"text": f"no id, from {phone}", "from": phone})
        caller.callback(
            "/sms/delivery-reports", {"id": f"nobodys-{phone[-1]}", "status": "Sent", "phoneNumber": phone}
        )
    caller.apply_reports()
    body = {"to": [ALICE, BEN], "text": SECRET, "send_at": "2099-01-01T00:00:00Z"[:0] or None}
    caller.post(
        "/v1/messages", {name: value for name, value in body.items() if value}, {"Idempotency-Key": "k"}
    )
    file = f"phone,name\n0711 000 701,Alice\n{BEN},Ben\n".encode()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        + file
        + b'\r\n--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nHello {{name}}\r\n--x--\r\n'
    )
    assert caller.post_bytes("/v1/batches", form, "multipart/form-data; boundary=x").status_code == 202
    while import_next(database, settings, lambda: False):
        pass
    for phone in (ALICE, BEN):
        stop(database, phone, None, f"{phone} asked by phone", "api")
        terms = consents.Terms(phone, wording=f"I, {phone}, agree", evidence=f"form of {phone}")
        consents.give(database, phone, None, terms)
    with database.write() as connection:
        # As an earlier release took them from callers.
        asked_in = f"otp-{ALICE[1:]}"
        theirs = update(tables.messages).where(tables.messages.c.recipient == ALICE)
        connection.execute(theirs.values(request_id=asked_in))
        connection.execute(update(tables.batches).values(request_id=asked_in))
    return caller


def cancel_queued(connection: Connection) -> None:
    queued = update(tables.messages).where(tables.messages.c.status == "queued")
    connection.execute(queued.values(status="cancelled"))


def contents(database: Database) -> str:
    """All that stands in any column, bytes read as text."""
    found: list[str] = []
    with database.read() as connection:
        for table in tables.metadata.sorted_tables:
            for row in connection.execute(select(table)):
                found += map(as_text, row)
    return "\n".join(found)


def as_text(value: object) -> str:
    return bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)


def in_files(database: Database) -> bytes:
    """Beside the database and its log: the queue and the witness, and a backup that is made now."""
    folder = Path(str(database.engine.url.database)).parent
    backup = back_up(database, folder / "after.backup")
    assert backup.size_bytes > 0
    files = [one for one in folder.rglob("*") if one.is_file()]
    assert {"sms.db", "sms-witness", "after.backup"} <= {one.relative_to(folder).parts[0] for one in files}
    return b"".join(one.read_bytes() for one in files)


def require_gone(database: Database, *words: str) -> None:
    text = contents(database)
    assert [one for one in words if one in text] == []
    if database.is_sqlite:
        database.truncate_log()
        raw = in_files(database)
        assert [one for one in words if one.encode() in raw] == []


def test_the_history_holds_what_is_looked_for(history: Caller, database: Database) -> None:
    text = contents(database)
    assert [one for one in FORMS if one not in text and quote_plus(one) not in text] == []
    if database.is_sqlite:
        assert ALICE.encode() in in_files(database)


def test_who_is_forgotten_is_in_no_row_and_no_file_and_the_others_are(
    history: Caller, database: Database
) -> None:
    found = forget(database, ALICE)
    assert found["messages"] >= 3
    assert found["texts_received"] == 1
    require_gone(database, ALICE, ALICE[1:], "0711 000 701", "711000701")
    text = contents(database)
    assert BEN in text
    assert HEARD in text
    assert audit(database).problems == []
    with database.read() as connection:
        counted = [row.cost_text for row in connection.execute(select(tables.messages)) if row.cost_text]
    assert len(counted) == 2
    assert forget(database, ALICE) == {}


def test_who_is_forgotten_has_agreed_to_nothing_any_more(history: Caller, database: Database) -> None:
    forget(database, ALICE)
    with database.read() as connection:
        assert consents.has_consent(connection, [ALICE, BEN], None) == {BEN}
    kept = consents.list_consents(database)["items"]
    assert [(one["action"], one["in_force"]) for one in kept] == [("give", True), ("give", False)]


def test_who_said_stop_is_not_texted_after_being_forgotten(
    history: Caller, database: Database, provider: FakeProvider
) -> None:
    forget(database, ALICE)
    answer = history.get(f"/sms/invoke-bulk-sms?phone={ALICE[1:]}&message=again")
    assert (answer.status_code, answer.json["code"]) == (403, "opted_out")  # type: ignore[index]
    with database.read() as connection:
        assert ledger.suppressed(connection, [ALICE, BEN, "+254711000703"], None) == {ALICE, BEN}


def test_a_stop_that_is_forgotten_between_claim_and_post_counts(history: Caller, database: Database) -> None:
    with database.write() as connection:
        cancel_queued(connection)
        ledger.lift(connection, ALICE, source="api")
        enqueue(connection, [NewMessage(ALICE, "text")])
    limits = claim.ClaimLimits(500, timedelta(minutes=1))
    (claimed,) = claim.claim_due(database, "worker", limits).claims
    with pytest.raises(Conflict, match="just being sent"):
        forget(database, ALICE)
    with database.write() as connection:
        ledger.record_stop(connection, ALICE, "all", None, "api")
        hidden = "#" + require_identity(connection, wall_clock(connection)).digest("opt-out", ALICE)
        theirs = tables.suppressions.c.phone == ALICE
        connection.execute(update(tables.suppressions).where(theirs).values(phone=hidden))
    turn = start_post.begin_posting(database, claimed, Rates(1000, 1000), timedelta(minutes=1))
    assert turn == last_check.Released("nobody_left")


def test_a_start_of_who_was_forgotten_counts(history: Caller, database: Database) -> None:
    history.callback("/sms/twoway", {"from": ALICE, "to": "20880", "text": "STOP", "id": "in-stop"})
    with database.write() as connection:
        ledger.lift(connection, ALICE, source="api")
        ledger.record_stop(connection, ALICE, "all", None, ledger.KEYWORD)
    forget(database, ALICE)
    history.callback("/sms/twoway", {"from": ALICE, "to": "20880", "text": "START", "id": "in-start"})
    with database.read() as connection:
        assert ledger.suppressed(connection, [ALICE], None) == set()


def test_what_is_old_is_erased_and_what_waits_or_is_young_is_not(history: Caller, database: Database) -> None:
    with database.write() as connection:
        cancel_queued(connection)
        connection.execute(update(tables.batches).values(status="finished"))
        (waiting,) = enqueue(connection, [NewMessage(BEN, "Not yet sent")])
    times = {
        tables.messages: "created_at",
        tables.callbacks: "received_at",
        tables.inbound_messages: "received_at",
        tables.delivery_reports: "received_at",
        tables.attempts: "claimed_at",
        tables.batches: "created_at",
        tables.actions: "at",
    }
    assert erasure.erase_old(database, 90 * DAYS) == 0
    for table, column in times.items():
        move_time(database, table, column, 91 * DAYS)
    with database.write() as connection:
        (young,) = enqueue(connection, [NewMessage(ALICE, "Just now")])
        connection.execute(
            update(tables.messages).where(tables.messages.c.id == young).values(status="delivered")
        )
    assert erasure.erase_old(database, 90 * DAYS) > 10
    with database.read() as connection:
        now = wall_clock(connection)
    erasure.erase_conversations(database, now + DAYS)
    left = {row["id"]: row["text"] for row in history.messages() if row["text"]}
    assert left == {waiting: "Not yet sent", young: "Just now"}
    with database.write() as connection:
        connection.execute(
            update(tables.messages).where(tables.messages.c.id == young).values(recipient="", text="")
        )
        # What stays on purpose: the ledgers, a call's answer for a day, and the rows that a file's import refused.
        for table in (
            tables.consents_in_force,
            tables.consents,
            tables.idempotency_keys,
            tables.suppressions,
            tables.opt_outs,
            tables.refused_rows,
        ):
            connection.execute(table.delete())
    require_gone(database, SECRET, HEARD, ALICE, ALICE[1:])
    assert erasure.erase_old(database, 90 * DAYS) == 0


def test_it_goes_on_where_it_stopped(
    history: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as connection:
        ids = enqueue(connection, [NewMessage(BEN, "old") for _ in range(40)])
        connection.execute(update(tables.messages).values(status="delivered"))
    move_time(database, tables.messages, "created_at", 91 * DAYS)
    monkeypatch.setattr(erasure, "CHUNK", 7)
    monkeypatch.setattr(erasure, "WINDOW", 10)
    rounds = 0
    while erasure.erase_old(database, 90 * DAYS, seconds=0.0):
        rounds += 1
    assert rounds > 5
    with database.read() as connection:
        named = connection.execute(
            select(tables.messages.c.id).where(tables.messages.c.recipient != "")
        ).all()
    assert named == []
    assert len(ids) == 40


def test_a_number_in_a_file_that_is_still_being_read_is_not_half_forgotten(database: Database) -> None:
    with database.write() as connection:
        now = wall_clock(connection)
        require_identity(connection, now)
        for position, content in enumerate((b"phone\n+25471", b"1000701\n")):
            row = {"upload_id": "u", "position": position, "content": content, "stored_at": now}
            connection.execute(insert(tables.upload_pieces).values(**row))
        enqueue(connection, [NewMessage(ALICE, "text")])
    with pytest.raises(Conflict, match="just being read"):
        forget(database, ALICE)
    with database.read() as connection:
        assert connection.execute(select(tables.messages.c.recipient)).scalar_one() == ALICE


@pytest.mark.parametrize("waits", ["waiting", "held", "failed"])
def test_a_text_that_is_erased_before_its_answer_gets_none(
    history: Caller, database: Database, waits: str
) -> None:
    theirs = tables.inbound_messages.c.sender == ALICE
    with database.write() as connection:
        values = {"reply_outcome": waits, "reply_due_at": wall_clock(connection), "held_texts": '["Hi"]'}
        connection.execute(update(tables.inbound_messages).where(theirs).values(**values))
        text_id = connection.execute(select(tables.inbound_messages.c.id).where(theirs)).scalar_one()
    forget(database, ALICE)
    with pytest.raises(NotHeld):
        release(database, text_id)
    mine = tables.inbound_messages.c.id == text_id
    columns = tables.inbound_messages.c.reply_outcome, tables.inbound_messages.c.reply_due_at
    with database.read() as connection:
        assert tuple(connection.execute(select(*columns).where(mine)).one()) == ("cancelled", None)


def test_a_report_that_is_not_applied_yet_is_not_lost_and_leaves_no_number(
    history: Caller, database: Database
) -> None:
    sent = next(one for one in history.messages() if one["to"] == ALICE and one["provider_message_id"])
    report = {"id": sent["provider_message_id"], "status": "Success", "phoneNumber": ALICE, "retryCount": "1"}
    history.callback("/sms/delivery-reports", report)
    with pytest.raises(Conflict, match="waits for the worker"):
        forget(database, ALICE)
    assert history.messages()[-1]["to"]
    history.apply_reports()
    forget(database, ALICE)
    # One that comes later brings the number again.
    history.callback("/sms/delivery-reports", report | {"retryCount": "2"})
    history.apply_reports()
    assert forget(database, ALICE) == {"callbacks": 1, "late_reports": 1}
    require_gone(database, ALICE, ALICE[1:])


def test_the_opt_out_of_who_was_forgotten_is_found_by_their_number(
    history: Caller, database: Database
) -> None:
    forget(database, ALICE)
    found = list_entries(database, LedgerFilters(phone=ALICE, in_force=True))["items"]
    assert [(one["action"], one["in_force"]) for one in found] == [("stop", True)]
    assert ALICE not in str(found)
    lifted = lift(database, ALICE, None, None, "api")
    assert (lifted["lifted"], lifted["blocks"]) == (1, [])


def test_a_start_of_who_was_forgotten_is_told_with_the_number(database: Database) -> None:
    with database.write() as connection:
        require_identity(connection, wall_clock(connection))
        ledger.record_stop(connection, ALICE, "all", None, ledger.KEYWORD)
    forget(database, ALICE)
    with database.write() as connection:
        connection.info[FORWARDS] = True
        ledger.record_start(connection, ALICE, None)
        body = connection.execute(select(tables.forward_events.c.body)).scalar_one()
        connection.info.pop(FORWARDS)
    assert ALICE in body


def test_the_words_of_who_was_forgotten_are_found_no_more(history: Caller, database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(tables.messages).values(created_at=wall_clock(connection) - DAYS))
    search.index_new(database)
    assert {one["to"] for one in history.messages(text="result")} == {ALICE, BEN}
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    forget(database, ALICE)
    assert {one["to"] for one in history.messages(text="result")} == {BEN}
    if not database.is_sqlite:
        # A dead row holds its words until then.
        (vacuum,) = [one for one in asked if one.startswith("VACUUM")]
        assert tables.SEARCH in vacuum


def test_two_that_erase_take_their_locks_in_one_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep has the turn of the search first and then the rows; crosswise each would wait for the other."""
    with database.write() as connection:
        enqueue(connection, [NewMessage(ALICE, SECRET)])
    asked: list[str] = []
    monkeypatch.setattr(search, "lock_keys", lambda _connection, keys: asked.extend(keys))
    event.listen(database.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    forgetting._forget_messages(database, ALICE)
    is_locking = [
        one for one in asked if one == search.INDEXED or one.startswith("SELECT messages.id, messages.status")
    ]
    assert is_locking[0] == search.INDEXED
    assert len(is_locking) > 1


def test_while_a_text_is_being_sent_nothing_at_all_is_changed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "CHUNK", 2)
    with database.write() as connection:
        ids = enqueue(connection, [NewMessage(ALICE, SECRET) for _ in range(5)])
        leaving = update(tables.messages).where(tables.messages.c.id == ids[-1])
        connection.execute(leaving.values(status="sending"))
    with pytest.raises(Conflict, match="just being sent"):
        forget(database, ALICE)
    with database.read() as connection:
        rows = connection.execute(select(tables.messages).order_by(tables.messages.c.id)).all()
    assert [(row.recipient, row.status) for row in rows] == [(ALICE, "queued")] * 4 + [(ALICE, "sending")]


def test_the_end_of_one_file_and_the_beginning_of_the_next_are_no_number(database: Database) -> None:
    with database.write() as connection:
        now = wall_clock(connection)
        for upload, content in (("u1", b"phone\n+25471"), ("u2", b"1000701\n")):
            row = {"upload_id": upload, "position": 0, "content": content, "stored_at": now}
            connection.execute(insert(tables.upload_pieces).values(**row))
    assert forget(database, ALICE) == {}


def test_answers_are_looked_through_window_by_window(
    history: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("j", "l", "m"):
        history.post("/v1/messages", {"to": [ALICE, BEN], "text": "Hi"}, {"Idempotency-Key": key})
    monkeypatch.setattr(forgetting, "CHUNK", 2)
    assert forget(database, ALICE)["answers_of_calls"] == 4
    require_gone(database, ALICE)


def test_a_person_is_forgotten_before_anything_was_ever_sent(database: Database) -> None:
    stop(database, ALICE, None, None, "api")
    forget(database, ALICE)
    assert ALICE not in contents(database)
    with database.read() as connection:
        assert ledger.suppressed(connection, [ALICE, BEN], None) == {ALICE}
