from __future__ import annotations

import json
import sqlite3
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from messaging.callbacks import journal
from messaging.callbacks.receive import (
    KINDS,
    LARGEST_BODY_BYTES,
    TRUNCATED,
    CallbackReceiver,
    Unusable,
    read_callback,
    read_content,
)
from messaging.consent import ledger
from messaging.conversations import receive as inbound_module
from messaging.conversations.receive import InboundText
from messaging.reports.message_state import DeliveryReport
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import (
    OTHER_PHONE,
    PHONE,
    add_accepted,
    all_rows,
    at_once,
    counting_statements,
    form,
    inbound,
    message,
    only_row,
    open_inbox,
    opt_out,
    report,
)
from tests.support.poison import Poison
from utils.errors import StorageUnavailable
from utils.settings import Settings

# The real delivery report of docs/africastalking.md, 4b.
REAL_REPORT = (
    b"phoneNumber=%2B254706318147&failureReason=DeliveryFailure&retryCount=0"
    b"&id=ATXid_8c75&status=Failed&networkCode=63902"
)


def as_report(body: bytes) -> DeliveryReport:
    content = read_content("report", body)
    assert isinstance(content, DeliveryReport)
    return content


def as_text(body: bytes) -> InboundText:
    content = read_content("inbound", body)
    assert isinstance(content, InboundText)
    return content


def test_a_real_report_is_read_field_by_field() -> None:
    assert as_report(REAL_REPORT) == DeliveryReport(
        "ATXid_8c75", "Failed", "+254706318147", "DeliveryFailure", "63902", "0"
    )


def test_only_the_id_and_the_word_of_a_report_are_needed() -> None:
    assert as_report(b"id=a&status=Sent&failureReason=") == DeliveryReport("a", "Sent")


def test_a_text_is_read_with_everything_that_at_may_add() -> None:
    body = inbound(
        "Hallo  Ünïcode & more\n",
        "ec9adc86",
        date="2017-05-03 06:04:45",
        linkId="L1",
        networkCode="63902",
        cost="KES 1.00",
    )
    assert as_text(body) == InboundText(
        "ec9adc86",
        PHONE,
        "20880",
        "Hallo  Ünïcode & more\n",
        "L1",
        "63902",
        "KES 1.00",
        "2017-05-03 06:04:45",
    )


def test_what_is_only_shown_of_a_callback_is_cut() -> None:
    long = "x" * 20_000
    report = as_report(
        f"id=a&status=Failed&failureReason={long}&networkCode={long}&retryCount={long}".encode()
    )
    text = as_text(inbound("x", "in-1", date=long, linkId=long, networkCode=long, cost=long))
    shown = (report.failure_reason, report.network, report.retry_count, text.link_id, text.network)
    assert {len(one or "") for one in (*shown, text.cost_text, text.provider_date)} == {500}


def test_an_empty_text_is_a_text() -> None:
    assert as_text(b"from=%2B254711000001&to=20880&id=1&text=").text == ""


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("%2B254711000001", "+254711000001"),
        ("+254711000001", "+254711000001"),  # a plus that was not escaped is a space in a form
        ("254711000001", "+254711000001"),
        ("%2B0711000001", "+0711000001"),
        ("20880", "20880"),
        ("MTN", "MTN"),
        ("%D9%A2%D9%A5%D9%A4%D9%A7%D9%A1%D9%A1%D9%A0%D9%A0%D9%A0%D9%A0%D9%A0%D9%A1", "+254711000001"),
    ],
)
def test_a_sender_is_e164_where_it_is_a_phone(written: str, read: str) -> None:
    assert as_text(f"from={written}&to=20880&id=1&text=x".encode()).sender == read


def test_the_first_of_two_equal_fields_counts() -> None:
    assert as_report(b"id=a&id=b&status=Sent").provider_message_id == "a"


def test_what_is_not_utf_8_and_what_postgresql_cannot_hold_is_replaced() -> None:
    assert as_text(b"from=MTN&to=20880&id=1&text=caf%E9%00\xff").text == "caf\ufffd\ufffd\ufffd"


QUARANTINED: list[tuple[str, bytes, str]] = [
    ("inbound", b"to=20880&text=x&id=1", "the field from is missing"),
    ("inbound", b"from=%2B254711000001&text=x&id=1", "the field to is missing"),
    ("inbound", b"from=%2B254711000001&to=20880&id=1", "the field text is missing"),
    ("inbound", b"from=%2B254711000001&to=20880&text=x", "the field id is missing"),
    ("inbound", b"from=%2B254711000001&to=20880&text=x&id=+", "the field id is missing"),
    ("inbound", inbound("x", "i" * 201), "the field id is too long"),
    ("inbound", inbound("x", sender="s" * 65), "the field from is too long"),
    ("inbound", inbound("x", to="t" * 33), "the field to is too long"),
    ("report", b"status=Success", "the field id is missing"),
    ("report", b"id=a", "the field status is missing"),
    ("report", b"id=None&status=Failed", "the field id says None"),
    ("report", report("i" * 201), "the field id is too long"),
    ("report", report("a", "w" * 65), "the field status is too long"),
    ("opt_out", b"senderId=ACME", "the field phoneNumber is missing"),
    ("opt_out", b"phoneNumber=nobody+whose+name+is+short", "the field phoneNumber holds no phone number"),
    ("opt_out", opt_out("+" + "9" * 60), "the field phoneNumber holds no phone number"),
    ("opt_out", opt_out(senderId="s" * 33), "the field senderId is too long"),
    ("subscription", b"updateType=addition", "the field phoneNumber is missing"),
    ("subscription", b"phoneNumber=%2B254711000001", "the field updateType is missing"),
    ("report", b"", "the field id is missing"),
    ("report", b"&" * 200, "the body has too many fields"),
    ("report", json.dumps({"id": "a", "status": "Success"}).encode(), "the field id is missing"),
    (
        "report",
        b'--x\r\nContent-Disposition: form-data; name="id"\r\n\r\na\r\n--x--',
        "the field id is missing",
    ),
]


@pytest.mark.parametrize(("kind", "body", "why"), QUARANTINED)
def test_a_body_that_lacks_what_it_needs_cannot_be_used(kind: str, body: bytes, why: str) -> None:
    with pytest.raises(Unusable, match=f"^{why}$"):
        read_content(kind, body)


def test_what_cannot_be_used_is_kept_as_it_came(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        for kind, body, _why in QUARANTINED:
            inbox.receive(kind, body, "application/json; charset=latin-1")
    rows = all_rows(database, tables.callbacks)
    assert [(row.kind, bytes(row.body), row.detail) for row in rows] == QUARANTINED
    assert {row.outcome for row in rows} == {"quarantined"}
    assert {row.content_type for row in rows} == {"application/json; charset=latin-1"}


def test_a_cut_body_is_quarantined_even_where_it_could_be_read(
    database: Database, settings: Settings
) -> None:
    body = inbound("x" * (LARGEST_BODY_BYTES - 50))
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", body, truncated=True)
    row = only_row(database, tables.callbacks)
    assert (bytes(row.body), row.outcome, row.detail) == (body, "quarantined", TRUNCATED)
    assert all_rows(database, tables.inbound_messages) == []


def test_the_longest_possible_text_is_taken(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", inbound("x" * (LARGEST_BODY_BYTES - 60)))
    assert len(only_row(database, tables.inbound_messages).text) == LARGEST_BODY_BYTES - 60


def test_a_kind_that_at_does_not_have_is_our_own_mistake(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox, pytest.raises(ValueError, match="not a kind"):
        inbox.receive("voice", b"")


def test_a_subscription_is_journaled(database: Database, settings: Settings) -> None:
    body = form(phoneNumber=PHONE, shortCode="20880", keyword="NEWS", updateType="Addition")
    with open_inbox(database, settings) as inbox:
        inbox.receive("subscription", body)
    row = only_row(database, tables.callbacks)
    assert (row.kind, row.outcome, bytes(row.body)) == ("subscription", "applied", body)


def test_an_equal_body_is_counted_and_takes_effect_once(database: Database, settings: Settings) -> None:
    add_accepted(database, "a")
    with open_inbox(database, settings) as inbox:
        for _ in range(3):
            inbox.receive("report", report("a"))
    row = only_row(database, tables.callbacks)
    assert (row.count, row.outcome) == (3, "applied")
    assert row.last_seen_at > row.received_at
    assert len(all_rows(database, tables.delivery_reports)) == 1


def test_equal_bodies_at_the_same_moment_are_counted_and_take_effect_once(
    database: Database, settings: Settings
) -> None:
    add_accepted(database, "a")
    with open_inbox(database, settings) as inbox:
        at_once([lambda: inbox.receive("report", report("a"))] * 8)
    assert only_row(database, tables.callbacks).count == 8
    assert len(all_rows(database, tables.delivery_reports)) == 1


def test_groups_with_bodies_in_common_do_not_block_each_other(database: Database) -> None:
    bodies = [f"body {number}".encode() for number in range(100)]

    def write(order: list[bytes]) -> None:
        for _ in range(5):
            with database.write() as connection:
                journal.write(connection, [read_callback("report", body).arrival for body in order])

    at_once([lambda: write(bodies), lambda: write(bodies[::-1])])
    assert {row.count for row in all_rows(database, tables.callbacks)} == {10}


def test_an_equal_body_of_another_kind_is_another_entry(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("report", b"x")
        inbox.receive("inbound", b"x")
    assert [row.count for row in all_rows(database, tables.callbacks)] == [1, 1]


def test_an_equal_opt_out_counts_again_after_the_person_came_back(
    database: Database, settings: Settings
) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("opt_out", opt_out())
        with database.write() as connection:
            ledger.lift(connection, PHONE, source="api")
        assert all_rows(database, tables.suppressions) == []
        inbox.receive("opt_out", opt_out())
    assert only_row(database, tables.suppressions).phone == PHONE
    assert only_row(database, tables.callbacks).count == 2


def test_what_cannot_be_applied_is_kept_and_takes_no_neighbour_with_it(
    database: Database, settings: Settings, poison: Poison
) -> None:
    ids = [add_accepted(database, f"good-{number}") for number in range(5)]
    bodies = [report(f"good-{number}") for number in range(5)]
    bodies.insert(2, report("bad", Poison.WORD))
    with open_inbox(database, settings) as inbox:
        at_once([lambda body=body: inbox.receive("report", body) for body in bodies])
    assert [message(database, one).status for one in ids] == ["delivered"] * 5
    unapplied = [row for row in all_rows(database, tables.callbacks) if row.outcome == "unapplied"]
    assert [bytes(row.body) for row in unapplied] == [bodies[2]]
    assert "poisoned" in unapplied[0].detail


def test_an_equal_body_retries_what_could_not_be_applied(
    database: Database, settings: Settings, poison: Poison
) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("report", report("bad", Poison.WORD))
        inbox.receive("report", report("bad", Poison.WORD))
        assert only_row(database, tables.callbacks).outcome == "unapplied"
        poison.cure()
        inbox.receive("report", report("bad", Poison.WORD))
    row = only_row(database, tables.callbacks)
    assert (row.outcome, row.detail, row.count) == ("applied", None, 3)
    assert only_row(database, tables.delivery_reports).word == Poison.WORD


def test_an_error_of_our_own_is_kept_like_one_of_the_store(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_arguments: object) -> str:
        raise KeyError("bug")

    monkeypatch.setattr(inbound_module.keywords, "read_keyword", break_down)
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", inbound("x"))
    assert only_row(database, tables.callbacks).outcome == "unapplied"
    assert all_rows(database, tables.inbound_messages) == []


def test_trouble_of_the_store_is_no_fault_of_the_body(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadlock, a full disk: nothing is kept as unapplied, AT comes again."""

    def get_into_trouble(*_arguments: object) -> None:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    with open_inbox(database, settings) as inbox:
        with monkeypatch.context() as patch:
            patch.setattr("messaging.callbacks.apply.receive_texts", get_into_trouble)
            with pytest.raises(StorageUnavailable):
                inbox.receive("inbound", inbound("x"))
        assert all_rows(database, tables.callbacks) == []
        inbox.receive("inbound", inbound("x"))
    assert only_row(database, tables.callbacks).outcome == "applied"


def test_a_log_line_holds_no_value_of_a_callback(
    database: Database, settings: Settings, poison: Poison, caplog: pytest.LogCaptureFixture
) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("report", report("secret-id", Poison.WORD))
        inbox.receive("inbound", b"text=secret-text&from=%2B254711000001")
    assert "could not be applied" in caplog.text
    assert "quarantined" in caplog.text
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert not [word for word in ("secret", PHONE, PHONE[1:]) if word in logged]


def test_where_nothing_can_be_stored_the_caller_is_told_and_may_come_again(
    database: Database, settings: Settings
) -> None:
    def refuse(_connection: Connection) -> None:
        raise OSError("no space left on device")

    with open_inbox(database, settings) as inbox:
        event.listen(database.engine, "commit", refuse)
        with pytest.raises(StorageUnavailable):
            inbox.receive("inbound", inbound("x"))
        event.remove(database.engine, "commit", refuse)
        assert all_rows(database, tables.callbacks) == []
        inbox.receive("inbound", inbound("x"))
    assert only_row(database, tables.messages).inbound_id == only_row(database, tables.inbound_messages).id


def test_a_table_that_is_gone_is_storage_that_is_unavailable(database: Database, settings: Settings) -> None:
    with database.write() as connection:
        connection.execute(text("ALTER TABLE callbacks RENAME TO elsewhere"))
    try:
        with open_inbox(database, settings) as inbox, pytest.raises(StorageUnavailable):
            inbox.receive("report", report("a"))
    finally:
        with database.write() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO callbacks"))


def test_a_group_of_reports_is_journaled_in_one_statement_and_changes_nothing_yet(
    database: Database, settings: Settings
) -> None:
    message_id = add_accepted(database, "id-1")
    inbox = CallbackReceiver(database, settings)
    group = [read_callback("report", report(f"id-{number}")) for number in range(20)]
    with counting_statements(database) as statements:
        inbox._commits._write(group)
    assert len({one for one in statements if not one.startswith("BEGIN")}) == 1
    assert {row.outcome for row in all_rows(database, tables.callbacks)} == {"received"}
    assert message(database, message_id).status == "accepted"
    assert all_rows(database, tables.delivery_reports) == []


def test_the_thread_of_the_inbox_is_watched(database: Database, settings: Settings) -> None:
    inbox = CallbackReceiver(database, settings)
    assert inbox.is_alive()
    inbox.start()
    assert "inbox" in {thread.name for thread in threading.enumerate()}
    inbox.stop()
    assert not inbox.is_alive()


@pytest.fixture
def shared_inbox(database: Database, settings: Settings) -> Any:
    with open_inbox(database, settings) as inbox:
        yield inbox


FIELDS = st.sampled_from(
    [
        "from",
        "to",
        "text",
        "id",
        "status",
        "phoneNumber",
        "senderId",
        "failureReason",
        "networkCode",
        "linkId",
    ]
)
VALUES = st.one_of(
    st.text(max_size=300), st.sampled_from([PHONE, OTHER_PHONE, "20880", "None", "Success", "STOP"])
)
FORMS = st.dictionaries(FIELDS, VALUES).map(
    lambda fields: form(**{"sender" if name == "from" else name: value for name, value in fields.items()})
)
BODIES = st.one_of(st.binary(max_size=2000), FORMS)


@given(kind=st.sampled_from(KINDS), body=BODIES, content_type=st.none() | st.text(max_size=300))
@example("inbound", b"", "")
@example("inbound", b"from=\x00&to=%00&text=%00&id=%00", "\x00")
@example("report", b"id=a&status=" + "\U0010ffff".encode() * 64, None)
@example("opt_out", b"phoneNumber=%2B" + b"1" * 3000, None)
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_at_all_are_taken_and_kept_byte_for_byte(
    database: Database, shared_inbox: CallbackReceiver, kind: str, body: bytes, content_type: str | None
) -> None:
    shared_inbox.receive(kind, body, content_type)
    digest = journal.digest_of(kind, body)
    (row,) = [row for row in all_rows(database, tables.callbacks) if bytes(row.digest) == digest]
    assert bytes(row.body) == body
    assert row.outcome in ("applied", "quarantined")
