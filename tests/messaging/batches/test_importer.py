from __future__ import annotations

import io
import secrets
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from messaging.batches import control, import_pace, importer, progress, rows, upload_store
from messaging.batches import quote as quotes
from messaging.batches.importer import IMPORTER_LOST_AFTER, import_next
from messaging.batches.upload import AlreadySent, BatchRequest, receive
from messaging.consent import ledger
from messaging.messages.idempotency import KeyReused
from messaging.operations import sweep
from messaging.operations.audit import audit
from messaging.sending import due
from messaging.sending.claim import ClaimLimits
from messaging.storage import tables
from messaging.storage.bulk import insert_rows
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import claim_as
from utils.errors import InvalidInput
from utils.settings import Settings

LIMITS = ClaimLimits(500, timedelta(seconds=60))
PEOPLE = 2500


class Crash(Exception):
    pass


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTGRESQL_CHUNK", "SMALLEST_CHUNK", "ALONE_CHUNK", "SHARED_CHUNK"):
        monkeypatch.setattr(import_pace, name, 1000)


def content(count: int = PEOPLE, tail: str = "") -> bytes:
    return ("phone\n" + "".join(f"+254711{n:06d}\n" for n in range(count)) + tail).encode()


def take_in(
    settings: Settings,
    database: Database,
    raw: bytes | None = None,
    key: str | None = None,
    is_mine: bool = False,
    **fields: Any,
) -> int:
    request = BatchRequest(**({"text": "Hello"} | fields))
    file = io.BytesIO(content() if raw is None else raw)
    return int(receive(settings, database, request, file, key, is_mine=is_mine).body["id"])


def import_now(database: Database, settings: Settings) -> bool:
    return import_next(database, settings, lambda: False)


def import_by_command(database: Database, settings: Settings, batch_id: int) -> None:
    importer.import_batch(database, settings, batch_id, lambda _progress: None, lambda: False)


def batch_row(database: Database, batch_id: int = 1) -> Any:
    with database.read() as connection:
        return connection.execute(select(tables.batches).where(tables.batches.c.id == batch_id)).one()


def count(database: Database, table: Any) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def crash_in_chunk(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    insert_rows, calls = importer.insert_rows, iter(range(1000))

    def crash(*arguments: Any) -> None:
        if next(calls) >= (number - 1) * 2:
            raise Crash
        insert_rows(*arguments)

    monkeypatch.setattr(importer, "insert_rows", crash)


def pass_time(database: Database) -> None:
    with database.write() as connection:
        seen_at = utc_now() - IMPORTER_LOST_AFTER - timedelta(seconds=1)
        connection.execute(update(tables.batches).values(importer_seen_at=seen_at))


def test_nothing_goes_out_before_the_last_row_is_in(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(settings, database)
    with monkeypatch.context() as patch:
        crash_in_chunk(patch, 3)
        with pytest.raises(Crash):
            import_now(database, settings)
    assert count(database, tables.messages) == 2000
    assert claim_as(database, "worker", LIMITS) == []
    assert not due.has_due(database)
    assert audit(database).problems == []


def test_an_import_that_died_is_finished_by_another_and_no_row_comes_twice(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(settings, database, content(PEOPLE, "254711000007\n12\n"))
    with monkeypatch.context() as patch:
        crash_in_chunk(patch, 3)
        with pytest.raises(Crash):
            import_now(database, settings)
    assert not import_now(database, settings)
    pass_time(database)
    assert import_now(database, settings)
    batch = batch_row(database)
    assert (batch.status, batch.total, batch.refused, batch.duplicates) == ("sending", PEOPLE, 1, 1)
    with database.read() as connection:
        assert (
            connection.execute(select(func.count(tables.messages.c.recipient.distinct()))).scalar_one()
            == PEOPLE
        )
    assert count(database, tables.refused_rows) == 2  # one refused, one duplicate
    assert audit(database).problems == []


def test_what_a_command_left_half_read_is_cancelled(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = take_in(settings, database, is_mine=True)
    with monkeypatch.context() as patch:
        crash_in_chunk(patch, 2)
        with pytest.raises(Crash):
            import_by_command(database, settings, batch_id)
    assert not import_now(database, settings)
    assert batch_row(database).status == "receiving"
    pass_time(database)
    assert import_now(database, settings)
    assert (batch_row(database).status, batch_row(database).reason) == ("cancelled", "interrupted")
    with database.read() as connection:
        assert connection.execute(select(tables.messages.c.status).distinct()).scalars().all() == [
            "cancelled"
        ]
    assert count(database, tables.upload_pieces) == 0
    assert audit(database).problems == []


def test_a_command_that_came_to_its_end_after_all_keeps_its_batch(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = take_in(settings, database, is_mine=True)
    pass_time(database)
    give_up = importer._give_up

    def too_late(*arguments: Any) -> None:
        import_by_command(database, settings, batch_id)
        give_up(*arguments)

    monkeypatch.setattr(importer, "_give_up", too_late)
    assert import_now(database, settings)
    assert (batch_row(database).status, batch_row(database).reason) == ("sending", None)
    assert due.has_due(database)


def test_of_two_importers_one_gives_way(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(settings, database)
    write_chunk, nested = importer._write_chunk, []

    def meet(*arguments: Any) -> float:
        if not nested:
            nested.append(True)
            pass_time(database)
            assert import_now(database, settings)
        return write_chunk(*arguments)

    monkeypatch.setattr(importer, "_write_chunk", meet)
    assert import_now(database, settings)
    assert (batch_row(database).total, count(database, tables.messages)) == (PEOPLE, PEOPLE)
    assert batch_row(database).status == "sending"


def test_a_worker_that_stops_leaves_the_rest_to_the_next_at_once(
    database: Database, settings: Settings
) -> None:
    take_in(settings, database)
    asked = iter([False, True])
    assert import_next(database, settings, lambda: next(asked))
    assert (batch_row(database).status, count(database, tables.messages)) == ("receiving", 1000)
    assert import_now(database, settings)
    assert (batch_row(database).status, count(database, tables.messages)) == ("sending", PEOPLE)


def test_a_batch_cancelled_while_it_is_read_stays_cancelled(database: Database, settings: Settings) -> None:
    batch_id = take_in(settings, database)
    asked = iter([False, True])
    import_next(database, settings, lambda: next(asked))
    control.cancel(database, batch_id)
    assert not import_now(database, settings)
    assert batch_row(database).status == "cancelled"
    assert claim_as(database, "worker", LIMITS) == []
    assert audit(database).problems == []


def test_a_file_that_cannot_be_read_to_its_end_sends_nothing(database: Database, settings: Settings) -> None:
    take_in(settings, database, content(1500, '"+254711999999\n' + "x" * 200_000))
    import_now(database, settings)
    batch = batch_row(database)
    assert batch.status == "cancelled"
    assert batch.reason.startswith("unreadable_csv: Line 1502 ")
    with database.read() as connection:
        assert connection.execute(select(tables.messages.c.status).distinct()).scalars().all() == [
            "cancelled"
        ]
    assert count(database, tables.message_events) == batch.total
    assert count(database, tables.upload_pieces) == 0
    assert audit(database).problems == []


def test_a_file_of_refused_rows_only_is_finished_and_says_so(database: Database, settings: Settings) -> None:
    take_in(settings, database, b"phone\n12\n13\n")
    import_now(database, settings)
    batch = batch_row(database)
    assert (batch.status, batch.reason, batch.refused) == ("finished", "no_valid_rows", 2)
    assert batch.finished_at is not None


def test_a_file_of_which_nearly_all_is_refused_stops_early_and_sends_nothing(
    database: Database, settings: Settings
) -> None:
    """4 MB of `x` became 175 MB of refused rows."""
    take_in(settings, database, content(20) + b"x\n" * 50_000)
    import_now(database, settings)
    batch = batch_row(database)
    assert batch.status == "cancelled"
    assert batch.reason.startswith("nearly_all_refused: Of the first 10000 rows 9980 were refused")
    assert (batch.rows_read, batch.refused, count(database, tables.refused_rows)) == (10_000, 9980, 9980)
    with database.read() as connection:
        assert set(connection.execute(select(tables.messages.c.status)).scalars()) == {"cancelled"}


def test_beyond_so_many_refused_rows_the_rest_is_only_counted(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_REFUSED_KEPT", 30)
    take_in(settings, database, content(2000, tail="x\n" * 50))
    import_now(database, settings)
    batch = batch_row(database)
    assert (batch.status, batch.total, batch.refused, count(database, tables.refused_rows)) == (
        "sending",
        2000,
        50,
        30,
    )


def test_refused_rows_are_deleted_with_age_and_those_of_young_batches_stay(
    database: Database, settings: Settings
) -> None:
    for _ in range(2):
        take_in(settings, database, content(2000, tail="x\n" * 1500))
        import_now(database, settings)
    with database.write() as connection:
        old = utc_now() - timedelta(days=settings.retention_days, minutes=1)
        connection.execute(update(tables.batches).where(tables.batches.c.id == 1).values(created_at=old))
    sweep.sweep(database, settings)
    with database.read() as connection:
        left = connection.execute(
            select(tables.refused_rows.c.batch_id, func.count()).group_by(tables.refused_rows.c.batch_id)
        )
        assert [tuple(row) for row in left] == [(2, 1500)]
    assert batch_row(database, 1).refused == 1500


DOUBTFUL = "phone\n+2547110000012\n+254711000001\n" + "".join(
    f"+2547110000{n:03d}\n" for n in range(100, 250)
)


def test_doubtful_numbers_are_taken_counted_and_the_first_hundred_named(
    database: Database, settings: Settings
) -> None:
    take_in(settings, database, DOUBTFUL.encode())
    import_now(database, settings)
    batch = progress.get_batch(database, 1)
    assert (batch["total"], batch["refused"]) == (152, 0)
    assert batch["warning_counts"] == {"doubtful_number": 151}
    assert len(batch["warnings"]) == 100
    first = batch["warnings"][0]
    assert (first["line"], first["to"], first["code"]) == (2, "+2547110000012", "doubtful_number")
    assert [one["line"] for one in batch["warnings"][:3]] == [2, 4, 5]


def test_the_warnings_of_an_import_that_died_are_counted_once(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = take_in(
        settings, database, content(2500, tail="+2547110000012\n").replace(b"+254711000000", b"+25471100000")
    )
    assert import_next(database, settings, iter([False, True]).__next__)
    import_now(database, settings)
    batch = progress.get_batch(database, batch_id)
    assert (batch["status"], batch["total"]) == ("sending", 2501)
    assert [one["line"] for one in batch["warnings"]] == [2, 2502]


def test_warnings_name_numbers_and_go_with_age(database: Database, settings: Settings) -> None:
    take_in(settings, database, DOUBTFUL.encode())
    import_now(database, settings)
    old = utc_now() - timedelta(days=settings.retention_days, minutes=1)
    with database.write() as connection:
        connection.execute(update(tables.batches).values(created_at=old))
    sweep.sweep(database, settings)
    assert progress.get_batch(database, 1)["warnings"] == []


@pytest.mark.parametrize("sign", ["", " ", "NULL", "nan", "#N/A", "-", "\u2014"])
def test_the_sign_of_an_empty_cell_is_not_filled_into_a_text(
    database: Database, settings: Settings, sign: str
) -> None:
    raw = f"phone,name\n+254711000001,{sign}\n+254711000002,Null\n".encode()
    take_in(settings, database, raw, text="Dear {{name}}")
    import_now(database, settings)
    with database.read() as connection:
        (refused,) = connection.execute(select(tables.refused_rows)).all()
        assert (refused.line, refused.code) == (2, "empty_value")
        assert sign.strip() in refused.reason
        assert connection.execute(select(tables.messages.c.text)).scalars().all() == ["Dear Null"]


CHILDREN = (
    b"phone,name,amount\n+254711000001,Child one,5000\n+254711000001,Child two,7000\n"
    b"254711000001, Child one,5000\n+254711000002,Child one,5000\n"
)


def test_one_phone_gets_each_of_its_texts_and_the_same_text_once(
    database: Database, settings: Settings
) -> None:
    """The second child's text was counted as a duplicate and never made."""
    template = "{{name}}: {{amount}}"
    take_in(settings, database, CHILDREN, text=template)
    import_now(database, settings)
    batch = batch_row(database)
    assert (batch.total, batch.duplicates, batch.refused) == (3, 1, 0)
    with database.read() as connection:
        made = connection.execute(select(tables.messages.c.recipient, tables.messages.c.text)).all()
    assert [tuple(row) for row in made] == [
        ("+254711000001", "Child one: 5000"),
        ("+254711000001", "Child two: 7000"),
        ("+254711000002", "Child one: 5000"),
    ]
    quoted = quotes.quote_file(settings, database, io.BytesIO(CHILDREN), template)
    assert (quoted["recipients"], quoted["duplicates"], quoted["parts"]) == (3, 1, 3)


def test_a_blocked_number_counts_with_each_of_its_texts(database: Database, settings: Settings) -> None:
    with database.write() as connection:
        ledger.record_stop(connection, "+254711000001", "all", None, "api")
    quoted = quotes.quote_file(settings, database, io.BytesIO(CHILDREN), "{{name}}")
    assert (quoted["recipients"], quoted["opted_out"], quoted["parts"]) == (3, 2, 1)


def test_one_text_for_all_is_sent_once_to_a_number(database: Database, settings: Settings) -> None:
    take_in(settings, database, CHILDREN, text="School closes at noon")
    import_now(database, settings)
    assert (batch_row(database).total, batch_row(database).duplicates) == (2, 2)


def test_a_later_batch_is_scheduled_with_its_times(database: Database, settings: Settings) -> None:
    send_at = utc_now() + timedelta(hours=1)
    take_in(settings, database, send_at=send_at, expires_at=send_at + timedelta(hours=2), on_unknown="fail")
    import_now(database, settings)
    assert batch_row(database).status == "scheduled"
    with database.read() as connection:
        row = connection.execute(select(tables.messages).limit(1)).one()
    assert abs(row.due_at - send_at) < timedelta(milliseconds=1)
    assert row.expires_at - row.due_at == timedelta(hours=2)
    assert (row.on_unknown, row.priority, row.status, row.estimated_parts) == ("fail", 5, "queued", 1)


def test_an_upload_that_is_cut_off_leaves_no_batch_and_is_forgotten(
    database: Database, settings: Settings
) -> None:
    waiting = take_in(settings, database)
    pieces = iter([b"phone\n", b"+254711000001\n"])
    upload_store.store(database, pieces)
    assert (count(database, tables.batches), count(database, tables.upload_pieces)) == (1, 3)
    assert upload_store.forget_abandoned(database) == 0
    with database.write() as connection:
        connection.execute(update(tables.upload_pieces).values(stored_at=utc_now() - timedelta(hours=2)))
    assert upload_store.forget_abandoned(database) == 1
    assert count(database, tables.upload_pieces) == 1
    import_now(database, settings)
    assert batch_row(database, waiting).total == PEOPLE


def test_a_file_comes_back_from_its_pieces_as_it_was(database: Database) -> None:
    pieces = [bytes([n]) * (n + 1) * 1000 for n in range(20)]
    upload_id = upload_store.store(database, iter(pieces))
    with upload_store.read(database, upload_id) as file:
        assert file.read() == b"".join(pieces)
    upload_store.forget(database, upload_id)
    assert count(database, tables.upload_pieces) == 0


def test_a_key_stays_free_when_the_file_is_refused(database: Database, settings: Settings) -> None:
    with pytest.raises(InvalidInput):
        take_in(settings, database, b"who\n1\n", key="k")
    assert take_in(settings, database, key="k") == take_in(settings, database, key="k")
    assert count(database, tables.batches) == 1
    assert count(database, tables.upload_pieces) == 1


def take_a_callback(database: Database) -> None:
    now = utc_now()
    row = {"kind": "report", "body": b"", "digest": secrets.token_bytes(16), "count": 1, "outcome": "applied"}
    with database.write() as connection:
        connection.execute(insert(tables.callbacks).values(**row, received_at=now, last_seen_at=now))


def test_an_import_takes_little_at_a_time_where_callbacks_come(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(import_pace, "QUIET_SECONDS", 0.3)
    alone = import_pace.ALONE_CHUNK if database.is_sqlite else import_pace.POSTGRESQL_CHUNK
    with import_pace.import_pace(database) as pace:
        pace.after_write(10_000, 0.05)
        assert pace.chunk_size() == alone
        take_a_callback(database)
        pace.before_write()
        pace.after_write(1000, 0.001)
        assert pace.chunk_size() == import_pace.SHARED_CHUNK
        time.sleep(0.3)
        assert pace.chunk_size() == alone


def test_others_get_as_long_as_a_chunk_has_held_them_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(import_pace.time, "sleep", slept.append)
    with import_pace.import_pace(database) as pace:
        pace.after_write(1000, 0.02)
        slept.clear()
        take_a_callback(database)
        for held in (0.02, 0.001, 60):
            pace.before_write()
            pace.after_write(1000, held)
    assert slept == [0.02, import_pace.SHORTEST_PAUSE_SECONDS, import_pace.LONGEST_PAUSE_SECONDS]


def test_a_slow_disk_makes_the_chunks_smaller(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL locks rows")
    monkeypatch.undo()
    with import_pace.import_pace(database) as pace:
        take_a_callback(database)
        pace.before_write()
        pace.after_write(1000, 0.06)
        assert pace.chunk_size() == 500
        pace.after_write(1000, 60)
        assert pace.chunk_size() == import_pace.SMALLEST_CHUNK


def test_what_the_server_refuses_in_a_copy_fails_as_any_other_statement(database: Database) -> None:
    with pytest.raises(DBAPIError), database.write() as connection:
        insert_rows(connection, tables.messages, ("recipient",), [("+254711000001",)])
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.messages)).scalar_one() == 0


def test_the_planner_learns_of_a_table_that_grows(database: Database, settings: Settings) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite plans by the indexes")
    with database.write() as connection:
        connection.execute(text("ANALYZE messages"))
    take_in(settings, database)
    import_now(database, settings)
    with database.read() as connection:
        known = connection.execute(text("SELECT reltuples FROM pg_class WHERE relname = 'messages'"))
        assert known.scalar_one() >= 2000


def test_a_file_that_was_sent_today_is_refused_before_it_is_stored(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = BatchRequest("Hello")
    first = receive(settings, database, asked, io.BytesIO(content(3)), "a key", may_repeat=False)
    monkeypatch.setattr(upload_store, "store", lambda *_: pytest.fail("it is stored"))
    with pytest.raises(AlreadySent):
        receive(settings, database, asked, io.BytesIO(content(3)), "another key", may_repeat=False)
    again = receive(settings, database, asked, io.BytesIO(content(3)), "a key", may_repeat=False)
    assert (again.is_replay, again.body) == (True, first.body)


def test_a_file_is_read_in_the_country_that_was_chosen_for_it(database: Database, settings: Settings) -> None:
    """The quote and the import alike, whatever DEFAULT_REGION says by then."""
    raw = b"phone\n0711000001\n0711000002\n12\n"
    quoted = quotes.quote_file(settings, database, io.BytesIO(raw), "Hello", default_region="ke")
    assert (quoted["recipients"], quoted["refused_total"], quoted["with_region"]) == (2, 1, [])
    batch_id = take_in(settings, database, raw, default_region="ke")
    import_now(database, settings.model_copy(update={"default_region": "NG"}))
    with database.read() as connection:
        found = connection.execute(select(tables.messages.c.recipient).order_by(tables.messages.c.id))
        assert list(found.scalars()) == ["+254711000001", "+254711000002"]
    assert batch_row(database, batch_id).default_region == "KE"


def test_another_country_is_another_request_and_no_country_is_none(
    database: Database, settings: Settings
) -> None:
    take_in(settings, database, key="a-key-of-mine", default_region="KE")
    with pytest.raises(KeyReused):
        take_in(settings, database, key="a-key-of-mine", default_region="NG")
    for region in ("KENYA", "XX", ""):
        with pytest.raises(InvalidInput) as caught:
            take_in(settings, database, default_region=region)
        assert (caught.value.code, caught.value.field) == ("invalid_region", "default_region")
