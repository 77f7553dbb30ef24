from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete

from messaging.access.actions import list_actions
from messaging.access.actor import Actor, acting
from messaging.consent import consents, ledger
from messaging.consent.consent_files import import_consents
from messaging.consent.consents import Terms
from messaging.consent.ledger_files import Imported
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.callback_rows import OTHER_PHONE, PHONE
from utils.csv_files import InvalidFile
from utils.spreadsheets import harmless_cell

NAIROBI = ZoneInfo("Africa/Nairobi")
HEAD = "phone,sender_id,purpose,wording,wording_version,source,evidence"
FORM = Terms("signup form", "offers", "Send me offers", "2027-01", "form 12")
FULL = f"{PHONE},acme,offers,Send me offers,2027-01,signup form,form 12"


def imported(database: Database, *lines: str, region: str | None = None) -> Imported:
    return import_consents(database, io.BytesIO("\n".join(lines).encode()), region, NAIROBI)


def in_force(database: Database) -> list[dict[str, Any]]:
    return list(consents.list_consents(database, in_force=True)["items"])


def state(database: Database) -> set[tuple[object, ...]]:
    return {tuple(one[name] for name in one if name != "id") for one in in_force(database)}


def counts(done: Imported) -> tuple[int, int, int, int]:
    return done.added, done.known, done.ended, done.refused_count


def refused(done: Imported) -> list[tuple[object, object]]:
    return [(one["line"], one["code"]) for one in done.refused]


def exported(entries: Sequence[dict[str, Any]]) -> bytes:
    """As `sms consents export` writes it."""
    file = io.StringIO("")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(entries[0])
    writer.writerows(
        [harmless_cell("" if one is None else str(one)) for one in row.values()] for row in entries
    )
    return file.getvalue().encode()


def test_a_file_of_consents_is_written_down_with_its_words_and_again_adds_nothing(database: Database) -> None:
    done = imported(database, HEAD, FULL, f"{OTHER_PHONE},,,,,,")
    assert counts(done) == (2, 0, 0, 0)
    everything, acme = in_force(database)
    said = ("sender_id", "purpose", "wording", "wording_version", "source", "evidence")
    assert [acme[name] for name in said] == [
        *("ACME", "offers", "Send me offers", "2027-01", "signup form", "form 12")
    ]
    assert [everything[name] for name in said] == [None, None, None, None, "import", None]
    assert counts(imported(database, HEAD, FULL, f"{OTHER_PHONE},,,,,,")) == (0, 2, 0, 0)
    assert len(consents.list_consents(database)["items"]) == 2


def test_what_is_refused_is_named_with_its_line_and_the_rest_is_taken(database: Database) -> None:
    done = imported(
        database,
        HEAD,
        "nobody,,,,,,",
        f"{PHONE},,,{'x' * 2001},,,",
        f"{PHONE},a sender that is too long,,,,,",
        f"{PHONE},,,,,,,extra",
        f'{PHONE},,,"two',
        'lines",,,',
        "0711000002,,,,,,",
        region="KE",
    )
    assert refused(done) == [
        (2, "invalid_phone"),
        (3, "too_long"),
        (4, "invalid_sender_id"),
        (5, "extra_cells"),
        (6, "line_break"),
    ]
    assert [one["phone"] for one in in_force(database)] == ["+254711000002"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (f'phone,wording\n{OTHER_PHONE},yes\n{PHONE},"Send me'.encode(), "unreadable_csv"),
        (f"phone,wordng\n{PHONE},Send me offers\n".encode(), "unknown_column"),
        (f"phone,action\n{OTHER_PHONE},give\n{PHONE},withdraw\n".encode(), "missing_column"),
        (b"who\n1\n", "missing_phone_column"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_whole(
    database: Database, content: bytes, code: str
) -> None:
    with pytest.raises(InvalidFile) as caught:
        import_consents(database, io.BytesIO(content), None, NAIROBI)
    assert caught.value.code == code
    assert consents.list_consents(database)["items"] == []


def test_a_list_that_is_imported_again_does_not_text_who_has_withdrawn_since(database: Database) -> None:
    imported(database, HEAD, FULL, f"{OTHER_PHONE},,,,,,")
    consents.withdraw(database, PHONE, None, Terms("call"))
    more = f"{PHONE},,,,,,", f"{PHONE},OTHER,,,,,", "nobody,,,,,,"
    done = imported(database, HEAD, FULL, f"{OTHER_PHONE},,,,,,", *more)
    assert refused(done) == [(2, "withdrawn"), (4, "withdrawn"), (6, "invalid_phone")]
    # The withdrawal was of ACME alone.
    assert {(one["phone"], one["sender_id"]) for one in in_force(database)} == {
        (OTHER_PHONE, None),
        (PHONE, "OTHER"),
    }


def test_who_agreed_again_later_is_texted_and_the_file_says_when(database: Database) -> None:
    imported(database, HEAD, FULL)
    consents.withdraw(database, PHONE, None, Terms("call"))
    with database.read() as connection:
        now = wall_clock(connection)
    before = imported(database, "phone,sender_id,at", f"{PHONE},ACME,2026-01-31T10:00")
    assert refused(before) == [(2, "withdrawn")]
    to_come = imported(database, "phone,at", f"{OTHER_PHONE},{(now + timedelta(days=1)).isoformat()}")
    assert refused(to_come) == [(2, "invalid_time")]
    with database.read() as connection:
        after = wall_clock(connection).isoformat()
    assert counts(imported(database, "phone,sender_id,at", f"{PHONE},ACME,{after}")) == (1, 0, 0, 0)


def test_a_time_without_an_offset_is_one_of_the_zone_and_an_older_row_replaces_nothing(
    database: Database,
) -> None:
    imported(database, "phone,wording,at", f"{PHONE},new,2026-01-31T10:00")
    assert [one["at"] for one in in_force(database)] == ["2026-01-31T07:00:00.000Z"]
    assert counts(imported(database, "phone,wording,at", f"{PHONE},old,2025-01-31T10:00")) == (0, 1, 0, 0)
    assert counts(imported(database, "phone,wording,at", f"{PHONE},newer,2026-02-01T10:00")) == (1, 0, 0, 0)
    assert [one["wording"] for one in in_force(database)] == ["newer"]


def test_an_export_that_is_imported_elsewhere_gives_the_same_state(database: Database) -> None:
    consents.give(database, PHONE, None, FORM)
    consents.give(database, PHONE, "ACME", Terms("form", wording="=SUM(1)\nand two lines", evidence="@7"))
    consents.give(database, OTHER_PHONE, None, FORM)
    consents.withdraw(database, OTHER_PHONE, None, Terms("call"))
    consents.give(database, "+254711000003", None, FORM)
    consents.forget(database, "+254711000003")
    before, file = state(database), exported(list(consents.all_entries(database)))
    assert len(before) == 2
    with database.write() as connection:
        connection.execute(delete(tables.consents_in_force))
        connection.execute(delete(tables.consents))
    assert counts(import_consents(database, io.BytesIO(file), None, NAIROBI)) == (2, 0, 3, 0)
    assert state(database) == before
    assert counts(import_consents(database, io.BytesIO(file), None, NAIROBI)) == (0, 2, 3, 0)


def test_a_file_of_many_chunks_is_exported_whole_and_a_stop_still_blocks(database: Database) -> None:
    numbers = [f"+2547110{number:05d}" for number in range(1100)]
    assert imported(database, "phone", *numbers).added == 1100
    assert sorted(one["phone"] for one in consents.all_entries(database)) == numbers
    with database.write() as connection:
        ledger.record_stop(connection, numbers[0], "all", None, ledger.KEYWORD)
    imported(database, "phone,wording", f"{numbers[0]},again")
    with database.read() as connection:
        assert ledger.suppressed(connection, numbers[:2], "ACME") == {numbers[0]}


def test_who_imported_and_how_many_is_written_down(database: Database) -> None:
    token = acting.set(Actor("operator:ann"))
    try:
        imported(database, HEAD, FULL)
        imported(database, HEAD, FULL)
    finally:
        acting.reset(token)
    (action,) = list_actions(database)["items"]
    assert (action["actor"], action["action"], action["after"]) == (
        "operator:ann",
        "consent.import",
        {"added": 1},
    )
