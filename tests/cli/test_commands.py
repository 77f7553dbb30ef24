from __future__ import annotations

import csv
import io
import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
from click.testing import Result
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import OperationalError

from app import create_app
from cli import bulk_preview
from messaging import statuses
from messaging.batches import control, importer, progress, upload
from messaging.consent import ledger
from messaging.messages.queue import NewMessage, enqueue
from messaging.operations import health
from messaging.operations.account_check import claim_identity
from messaging.sending import due, pauses
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.cli.conftest import Sms, error_of, parsed
from tests.support.callback_rows import move_time
from tests.support.commands import command_in, names_in, sms_commands
from tests.support.delivery import in_write
from tests.support.fake_provider import FakeProvider
from tests.support.workbooks import workbook
from utils.settings import Settings

ALICE = "+254711000001"


def interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


def put(database: Database, **values: Any) -> int:
    with database.write() as connection:
        (message_id,) = enqueue(connection, [NewMessage(ALICE, "Hello [red]you[/red]")])
        if values:
            connection.execute(update(tables.messages).values(**values))
    return message_id


GROUPS = {
    *(("start",), ("batch",), ("consents",), ("opt-outs",)),
    *(("forwarding",), ("keys",), ("operators",), ("held",)),
}
COMMANDS = [
    ("migrate",),
    ("start",),
    ("send",),
    ("stats",),
    ("status",),
    ("resend",),
    ("close",),
    ("resume",),
    ("replay",),
    ("audit",),
    ("backup",),
    ("balance",),
    ("conversations",),
    ("inbound",),
    ("messages",),
    ("reply",),
    ("restore",),
    ("batch",),
    ("bulk",),
    ("doctor",),
    ("held",),
    ("held", "list"),
    ("held", "release"),
    ("held", "cancel"),
    ("quote",),
    ("proof",),
    ("fetch-inbound",),
    ("forwarding",),
    ("consents",),
    ("consents", "list"),
    ("consents", "add"),
    ("consents", "withdraw"),
    ("consents", "export"),
    ("consents", "import"),
    ("opt-outs",),
    ("opt-outs", "list"),
    ("opt-outs", "add"),
    ("opt-outs", "lift"),
    ("opt-outs", "export"),
    ("opt-outs", "import"),
    ("keys",),
    ("forget",),
    ("operators",),
    ("actions",),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(sms: Sms, words: tuple[str, ...]) -> None:
    result = sms(*words, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    if words not in GROUPS:
        assert "--json" in result.stdout


def test_no_command_is_missing_from_this_list() -> None:
    group = sms_commands()
    known = {(name,) for name in names_in(group)}
    for outer in ("consents", "opt-outs", "held"):
        nested = command_in(group, outer)
        assert isinstance(nested, click.Group)
        known |= {(outer, name) for name in names_in(nested)}
    assert known == set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [("status", "1"), ("audit",), ("replay", "--unapplied"), ("opt-outs", "list"), ("send", ALICE, "Hello")],
    ids=" ".join,
)
def test_before_the_migration_every_command_says_what_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/new.db", log_level="ERROR"))
    result = app.test_cli_runner().invoke(args=["sms", *words])
    assert error_of(result) == "Error: The database is not migrated: run `flask --app app sms migrate`"
    app.extensions["sms"].database.close()


def test_migrate_makes_the_tables_and_may_be_repeated(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/new.db", log_level="ERROR"))
    runner = app.test_cli_runner()
    for _ in range(2):
        result = runner.invoke(args=["sms", "migrate", "--json"])
        assert (result.exit_code, parsed(result)) == (0, {"migrated": True})
    assert runner.invoke(args=["sms", "audit"]).exit_code == 0
    app.extensions["sms"].database.close()


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:///{folder}"])
@pytest.mark.parametrize("words", [("migrate",), ("status", "1"), ("send", ALICE, "Hello")], ids=" ".join)
def test_a_database_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, url: str, words: tuple[str, ...]
) -> None:
    database_url, queue_url = url.format(folder=tmp_path), f"sqlite:///{tmp_path}/queue.db"
    app = create_app(Settings(database_url=database_url, queue_url=queue_url, log_level="CRITICAL"))
    assert "The database cannot be used" in error_of(app.test_cli_runner().invoke(args=["sms", *words]))


def test_send_queues_the_text_for_the_worker(sms: Sms, migrated: Database) -> None:
    result = sms("send", "+254 711-000 001", "Hello", "--sender-id", "CLINIC", "--json")
    assert result.exit_code == 0, result.output
    assert parsed(result)["messages"] == [{"id": 1, "to": ALICE, "status": "queued"}]
    with migrated.read() as connection:
        row = connection.execute(select(tables.messages)).one()
    assert (row.recipient, row.text, row.sender_id, row.origin) == (ALICE, "Hello", "CLINIC", "cli")


def test_send_answers_a_person_in_a_sentence(sms: Sms, migrated: Database) -> None:
    assert sms("send", ALICE, "Hello").stdout == f"Message 1 to {ALICE} is queued.\n"


def test_send_twice_with_one_key_queues_once(sms: Sms, migrated: Database) -> None:
    first, second = (sms("send", ALICE, "Hello", "--idempotency-key", "visit-7", "--json") for _ in range(2))
    assert parsed(first) == parsed(second)
    with migrated.read() as connection:
        assert len(connection.execute(select(tables.messages)).all()) == 1


@pytest.mark.parametrize(
    ("to", "words", "expected"),
    [
        ("0711000001", "Hello", "country code"),
        ("hello", "Hello", "only digits"),
        (ALICE, "  ", "cannot be empty"),
        (ALICE, "a" * 2000, "at most 1600"),
    ],
)
def test_send_refuses_in_one_sentence(
    sms: Sms, migrated: Database, to: str, words: str, expected: str
) -> None:
    assert expected in error_of(sms("send", to, words))


def test_send_refuses_the_records_of_another_account(
    sms: Sms, settings: Settings, migrated: Database
) -> None:
    claim_identity(migrated, settings.model_copy(update={"at_username": "clinic"}))
    assert "serves the account clinic" in error_of(sms("send", ALICE, "Hello"))
    assert "serves the account clinic" in error_of(sms("start"))


def test_a_mistake_in_the_reply_handlers_stops_the_start_with_its_line(
    settings: Settings, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "replies.py"
    file.write_text("def balance(message) -> str\n    return 'x'\n")
    app = create_app(settings.model_copy(update={"replies_file": str(file)}))
    result = app.test_cli_runner().invoke(args=["sms", "start"])
    app.extensions["sms"].callback_receiver.stop()
    app.extensions["sms"].database.close()
    assert "replies.py cannot be used: line 1: SyntaxError: expected ':'" in error_of(result)


def test_status_shows_the_message_and_its_history(sms: Sms, migrated: Database) -> None:
    message_id = put(migrated, status=statuses.REJECTED, reason="no_route", cost_text="KES 0.8000")
    result = sms("status", str(message_id))
    assert result.exit_code == 0
    assert "Hello [red]you[/red]" in result.stdout
    assert "KES 0.8000" in result.stdout
    assert "Check that the sender id may send" in result.stdout
    assert "queued" in result.stdout
    assert parsed(sms("status", str(message_id), "--json"))["history"][0]["status"] == "queued"


@pytest.mark.parametrize("message_id", ["77", "0", str(2**70)])
def test_status_of_a_message_that_is_not_there(sms: Sms, migrated: Database, message_id: str) -> None:
    assert error_of(sms("status", message_id)) == f"Error: There is no message {message_id}"


def test_audit_of_right_records_is_zero(sms: Sms, migrated: Database) -> None:
    put(migrated)
    assert sms("audit").exit_code == 0
    assert parsed(sms("audit", "--json"))["ok"] is True


def test_audit_of_wrong_records_is_one(sms: Sms, migrated: Database) -> None:
    put(migrated, cost_text="KES 0.8000", cost_micros=1)
    assert sms("audit").exit_code == 1
    (problem,) = parsed(sms("audit", "--json"))["problems"]
    assert problem["kind"] == "cost_differs"


def journal(database: Database, outcome: str) -> int:
    body = b"from=%2B254711000001&to=20880&text=Hello&id=inbound-1"
    with database.write() as connection:
        now = wall_clock(connection)
        row = {"kind": "inbound", "body": body, "digest": outcome.encode(), "count": 1, "outcome": outcome}
        row |= {"received_at": now, "last_seen_at": now}
        inserted = connection.execute(insert(tables.callbacks).returning(tables.callbacks.c.id), row)
        return int(inserted.scalar_one())


@pytest.mark.parametrize("words", [("--unapplied",), ("1",), ("--since", "2020-01-01T00:00Z")], ids=" ".join)
def test_replay_applies_what_could_not_be_applied_and_nothing_twice(
    sms: Sms, migrated: Database, words: tuple[str, ...]
) -> None:
    assert journal(migrated, "unapplied") == 1
    first, again = sms("replay", *words, "--json"), sms("replay", *words, "--json")
    assert (first.exit_code, parsed(first)["applied"]) == (0, 1)
    assert (again.exit_code, parsed(again)["applied"]) == (0, 0)
    with migrated.read() as connection:
        assert len(connection.execute(select(tables.messages)).all()) == 1


def test_replay_of_everything_by_mistake_is_refused(sms: Sms, migrated: Database) -> None:
    result = sms("replay")
    assert result.exit_code == 2
    assert "--unapplied" in result.stderr


def test_replay_since_no_time_is_refused(sms: Sms, migrated: Database) -> None:
    assert "is not a time" in error_of(sms("replay", "--since", "yesterday"))


def test_doctor_is_content_where_all_is_well(sms: Sms, migrated: Database) -> None:
    health.beat(migrated, "worker-1")
    result = sms("doctor")
    assert result.exit_code == 0, result.stdout
    for words in (
        "/sms/delivery-reports",
        "seen within",
        "clock was never set",
        "answers; balance KES 120.5000",
        "texts in",
        "gets REPLY_TEMPLATE",
    ):
        assert words in result.stdout


def test_doctor_names_every_part_that_is_ill(
    sms: Sms, migrated: Database, provider: FakeProvider, settings: Settings
) -> None:
    claim_identity(migrated, settings.model_copy(update={"at_username": "clinic"}))
    with migrated.write() as connection:
        row = {"name": "account", "reason": "insufficient_balance", "since": wall_clock(connection)}
        connection.execute(insert(tables.pauses), row)
    journal(migrated, "unapplied")
    journal(migrated, "received")
    move_time(migrated, tables.callbacks, "received_at", timedelta(minutes=2))
    provider.close()

    result = sms("doctor", "--json")

    assert result.exit_code == 1
    ill = {finding["part"] for finding in parsed(result) if not finding["ok"]}
    assert ill == {"identity", "worker", "pauses", "waiting", "reports", "provider"}
    assert [finding["part"] for finding in parsed(result) if finding["unknown"]] == ["provider"]
    assert re.search(r"^provider +\? ", sms("doctor").stdout, re.MULTILINE)


def test_doctor_changes_nothing_of_whose_records_these_are(
    sms: Sms, migrated: Database, settings: Settings
) -> None:
    sms("doctor")
    claim_identity(migrated, settings.model_copy(update={"at_username": "clinic"}))


def test_doctor_of_a_database_that_is_not_there_says_so(tmp_path: Path) -> None:
    app = create_app(
        Settings(
            database_url="postgresql://nobody@127.0.0.1:1/none",
            queue_url="redis://127.0.0.1:1/0",
            at_base_url="http://127.0.0.1:1",
            log_level="CRITICAL",
        )
    )
    result = app.test_cli_runner().invoke(args=["sms", "doctor", "--json"])
    assert result.exit_code == 1
    found = parsed(result)
    ill = {one["part"] for one in found if not one["ok"] and not one["unknown"]}
    assert ill == {"database", "queue"}
    assert [one["part"] for one in found if one["unknown"]] == ["records", "provider", "test keys"]


def test_a_consent_is_added_listed_and_withdrawn(sms: Sms, migrated: Database) -> None:
    words = ("--wording", "Send me offers", "--wording-version", "2", "--source", "form", "--json")
    added, again = (parsed(sms("consents", "add", ALICE, *words)) for _ in range(2))
    assert (added["phone"], added["added"], again["added"]) == (ALICE, True, False)
    (entry,) = parsed(sms("consents", "list", "--phone", ALICE, "--json"))["items"]
    assert (entry["wording"], entry["source"], entry["in_force"]) == ("Send me offers", "form", True)
    assert sms("consents", "withdraw", ALICE).stdout == f"{ALICE}: 1 withdrawn.\n"
    assert parsed(sms("consents", "list", "--in-force", "--json"))["items"] == []
    assert "Send me offers" in sms("consents", "list").stdout
    refused = error_of(sms("consents", "withdraw", ALICE))
    assert refused == f"Error: {ALICE} has agreed to nothing that could be withdrawn"


def test_consents_are_imported_and_exported_by_command(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "consents.csv"
    file.write_text(f"phone,wording,at\n{ALICE},Send me offers,2026-01-31T10:00Z\nnobody,,\n")
    done = sms("consents", "import", str(file))
    assert (done.exit_code, done.stdout.partition("\n")[0]) == (1, "1 added, 0 known, 1 refused.")
    assert "invalid_phone" in done.stdout
    exported = sms("consents", "export").stdout
    assert exported.startswith("\ufeffid,at,phone")
    file.write_text(exported, "utf-8")
    again = sms("consents", "import", str(file), "--json")
    assert (again.exit_code, parsed(again)["known"]) == (0, 1)
    assert [one["wording"] for one in parsed(sms("consents", "export", "--json"))] == ["Send me offers"]


def test_a_proof_shows_consents_opt_outs_and_messages_with_their_histories(
    sms: Sms, migrated: Database
) -> None:
    assert sms("proof", ALICE).stdout == f"Nothing is known about {ALICE}.\n"
    sms("consents", "add", ALICE, "--wording", "Send me offers", "--evidence", "form 12")
    assert sms("send", ALICE, "Hello").exit_code == 0
    sms("opt-outs", "add", ALICE, "--detail", "told us by phone")
    sms("opt-outs", "add", "+254711000002")
    shown = sms("proof", ALICE)
    assert shown.exit_code == 0
    told = shown.stdout
    for words in ("agreed for all senders, in force", "evidence: form 12", "opt-out: stop", "text: Hello"):
        assert words in told
    assert "+254711000002" not in told
    entries = parsed(sms("proof", ALICE, "--json"))
    assert [one["kind"] for one in entries] == ["consent", "opt_out", "message"]
    assert (entries[0]["wording"], entries[1]["detail"]) == ("Send me offers", "told us by phone")
    assert entries[2]["history"]


def test_an_opt_out_is_added_listed_lifted_and_exported(sms: Sms, migrated: Database) -> None:
    added = parsed(sms("opt-outs", "add", ALICE, "--detail", "=by phone", "--json"))
    assert (added["phone"], added["added"], added["blocks"][0]["source"]) == (ALICE, True, "operator")
    assert parsed(sms("opt-outs", "add", ALICE, "--json"))["added"] is False
    assert [entry["in_force"] for entry in parsed(sms("opt-outs", "list", "--json"))["items"]] == [True]
    assert sms("opt-outs", "lift", ALICE).stdout == f"{ALICE} may be texted again.\n"
    assert error_of(sms("opt-outs", "lift", ALICE)) == f"Error: Nothing stops texts to {ALICE}"

    exported = list(csv.DictReader(io.StringIO(sms("opt-outs", "export").stdout)))

    assert [(row["phone"], row["action"], row["source"]) for row in exported] == [
        (ALICE, "lift", "operator"),
        (ALICE, "stop", "operator"),
    ]
    assert exported[1]["detail"] == "'=by phone"
    assert len(parsed(sms("opt-outs", "export", "--json"))) == 2


def test_an_opt_out_for_one_sender_is_listed_by_phone(sms: Sms, migrated: Database) -> None:
    sms("opt-outs", "add", ALICE, "--sender-id", "Clinic")
    sms("opt-outs", "add", "+254711000002")
    (entry,) = parsed(sms("opt-outs", "list", "--phone", ALICE, "--json"))["items"]
    assert (entry["scope"], entry["sender_id"]) == ("sender", "CLINIC")
    assert ALICE in sms("opt-outs", "list").stdout


def test_lifting_what_the_network_blocks_too_says_what_the_recipient_can_dial(
    sms: Sms, migrated: Database
) -> None:
    with migrated.write() as connection:
        ledger.record_stop(connection, ALICE, "sender", "CLINIC", "refused_406")
    assert "*456*9#" in sms("opt-outs", "lift", ALICE).stdout


def test_opt_outs_are_imported_once_and_bad_lines_are_named(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "stops.csv"
    lines = [
        "\ufeffphone,sender_id,reason",
        f"{ALICE},,letter",
        f"{ALICE},,letter",
        "nobody,,",
        f"{ALICE},Clinic,",
    ]
    file.write_text("\n".join([*lines, *(f"+2547120{number:05d},," for number in range(1200))]), "utf-8")
    first, again = (sms("opt-outs", "import", str(file), "--json") for _ in range(2))
    assert (first.exit_code, again.exit_code) == (1, 1)
    assert (parsed(first)["added"], parsed(again)["added"], parsed(again)["known"]) == (1202, 0, 1203)
    assert [(one["line"], one["code"]) for one in parsed(first)["refused"]] == [(4, "invalid_phone")]
    entries = parsed(sms("opt-outs", "list", "--phone", ALICE, "--json"))["items"]
    assert [(one["sender_id"], one["source"], one["detail"]) for one in entries] == [
        ("CLINIC", "import", None),
        (None, "import", "letter"),
    ]
    written = parsed(sms("actions", "--subject", "opt_outs", "--json"))["items"]
    assert sum(one["after"]["added"] for one in written) == 1202
    assert {one["action"] for one in written} == {"opt_out.import"}
    assert sms("audit").exit_code == 0


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('+254711090001,"asked to stop\n+254711090002,called us\n', "Line 2"),
        ('+254711090001,fine\n+254711090002,"asked to stop\n+254711090003,called" us\n', "Line 3"),
    ],
)
def test_an_opt_out_file_with_a_stray_quote_is_refused_whole(
    sms: Sms, migrated: Database, tmp_path: Path, rows: str, line: str
) -> None:
    """It said "1 added", and the people in the rows that the quote had swallowed were texted again."""
    file = tmp_path / "stops.csv"
    file.write_text(f"phone,reason\n{rows}")
    assert line in error_of(sms("opt-outs", "import", str(file), "--json"))
    assert parsed(sms("opt-outs", "list", "--json"))["items"] == []


def test_an_opt_out_row_that_may_hide_another_is_named_and_not_guessed_at(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "stops.csv"
    file.write_text(
        'phone,reason\n+254711090001,"asked\n+254711090002,called"\n+254711090003,a,b\n+254711090004,\n'
    )
    result = sms("opt-outs", "import", str(file), "--json")
    assert result.exit_code == 1
    done = parsed(result)
    assert [(one["line"], one["code"]) for one in done["refused"]] == [(2, "line_break"), (4, "extra_cells")]
    assert (done["added"], done["refused_count"]) == (1, 2)


@pytest.mark.parametrize("head", ["Phone;Reason", "\ufeffPHONE\treason", "reason,phone"])
def test_opt_outs_are_imported_as_spreadsheets_write_them(
    sms: Sms, migrated: Database, tmp_path: Path, head: str
) -> None:
    mark = next(one for one in ";\t," if one in head)
    cells = {"phone": ALICE, "reason": "letter"}
    line = mark.join(cells[name.strip("\ufeff").casefold()] for name in head.split(mark))
    file = tmp_path / "stops.csv"
    file.write_text(f"{head}\r\n{line}\r\n{mark}\r\n", "utf-8")
    done = parsed(sms("opt-outs", "import", str(file), "--json"))
    assert (done["added"], done["refused"]) == (1, [])
    (entry,) = parsed(sms("opt-outs", "list", "--json"))["items"]
    assert (entry["phone"], entry["detail"]) == (ALICE, "letter")


@pytest.mark.parametrize("content", [b"who\n+254711000001\n", b"", "who\n1\n".encode("utf-16")])
def test_a_file_that_is_no_list_of_phones_is_refused(
    sms: Sms, migrated: Database, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "stops.csv"
    file.write_bytes(content)
    assert error_of(sms("opt-outs", "import", str(file), "--json"))


@pytest.mark.parametrize(
    "content",
    [
        workbook({"Stops": [("Mobile", "reason"), (254711000001, "élève")]}),
        "phone\treason\n+254711000001\télève\n".encode("utf-16"),
        "phone;reason\n+254711000001;élève\n".encode("cp1252"),
    ],
    ids=["xlsx", "utf-16", "windows-1252"],
)
def test_opt_outs_come_in_every_format_that_a_batch_may_have(
    sms: Sms, migrated: Database, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "stops"
    file.write_bytes(content)
    assert parsed(sms("opt-outs", "import", str(file), "--json"))["added"] == 1
    (entry,) = parsed(sms("opt-outs", "list", "--json"))["items"]
    assert (entry["phone"], entry["detail"]) == (ALICE, "élève")


def test_an_export_opens_in_excel_as_it_is(sms: Sms, migrated: Database) -> None:
    assert sms("opt-outs", "export").stdout.startswith("\ufeffid,at,phone")


def test_an_export_that_is_imported_elsewhere_gives_the_same_state(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    """A person whose STOP was ended by START was blocked by it."""
    said = [
        (ALICE, "all", None, ledger.KEYWORD),
        ("+254711000002", "sender", "CLINIC", "refused_406"),
        ("+254711000003", "all", None, ledger.KEYWORD),
        ("MTN", "all", None, ledger.KEYWORD),
        ("+2547110000012", "all", None, "api"),
    ]
    with migrated.write() as connection:
        for phone, scope, sender_id, source in said:
            ledger.record_stop(connection, phone, scope, sender_id, source, detail="=asked")
        ledger.record_start(connection, ALICE, "20880", None)
    before = standing_blocks(migrated)
    assert len(before) == 4
    file = tmp_path / "ledger.csv"
    file.write_text(sms("opt-outs", "export").stdout, "utf-8")
    with migrated.write() as connection:
        connection.execute(delete(tables.suppressions))
        connection.execute(delete(tables.opt_outs))
    first = sms("opt-outs", "import", str(file))
    assert (first.exit_code, first.stdout.partition("\n")[0]) == (0, "4 added, 0 known, 2 ended, 0 refused.")
    assert standing_blocks(migrated) == before
    assert parsed(sms("opt-outs", "import", str(file), "--json"))["known"] == 4
    assert standing_blocks(migrated) == before


def standing_blocks(database: Database) -> set[tuple[str, str, str]]:
    statement = select(tables.suppressions.c.phone, tables.suppressions.c.sender_id, tables.opt_outs.c.source)
    with database.read() as connection:
        ours = tables.opt_outs.c.id == tables.suppressions.c.opt_out_id
        return {
            (row.phone, row.sender_id, row.source)
            for row in connection.execute(statement.join(tables.opt_outs, ours))
        }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (f"phone,action\n+254711000002,stop\n{ALICE},start\n", "in_force"),
        (f'phone,action\n+254711000002,stop\n{ALICE},"stop', "never closed"),
    ],
)
def test_a_ledger_that_does_not_tell_what_ended_is_refused_whole_with_its_line(
    sms: Sms, migrated: Database, tmp_path: Path, content: str, code: str
) -> None:
    file = tmp_path / "ledger.csv"
    file.write_text(content)
    refusal = error_of(sms("opt-outs", "import", str(file), "--json"))
    assert "Line 3" in refusal
    assert code in refusal
    assert standing_blocks(migrated) == set()


def test_opt_outs_are_read_by_the_rules_of_numbers_and_headers(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "stops.csv"
    file.write_text(f"sep=;\nMobile;Sender-ID;in_force\n622000001;;\n'{ALICE};clinic;TRUE\n{ALICE};;maybe\n")
    done = parsed(sms("opt-outs", "import", str(file), "--json"))
    assert [(one["line"], one["code"]) for one in done["refused"]] == [
        (3, "invalid_in_force"),
        (5, "invalid_in_force"),
    ]
    assert standing_blocks(migrated) == {(ALICE, "CLINIC", "import")}


def test_an_exported_entry_names_its_evidence(sms: Sms, migrated: Database) -> None:
    callback_id = journal(migrated, "unapplied")
    with migrated.write() as connection:
        ledger.record_stop(connection, ALICE, "all", None, "callback", callback_id)
    (row,) = csv.DictReader(io.StringIO(sms("opt-outs", "export").stdout))
    assert (row["callback_id"], row["callback_digest"]) == ("1", b"unapplied".hex())


def test_an_opt_out_of_no_phone_is_refused(sms: Sms, migrated: Database) -> None:
    assert "only digits" in error_of(sms("opt-outs", "add", "everybody"))


def test_bulk_makes_a_file_into_a_batch(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone,name\n+254711000001,Amina\n+254711000001,Amina\n12,Nobody\n")
    result = sms("bulk", str(file), "--text", "Dear {{name}}", "--name", "Fees", "--max-refused", "0.5")
    assert result.exit_code == 0, result.output
    assert "1 to send, 1 rows refused, 1 duplicates, 0 opted out" in result.output
    assert "First, to +254711000001: Dear Amina" in result.output
    assert "Batch 1: 1 messages, 1 rows refused, 1 duplicates; sending." in result.output
    with migrated.read() as connection:
        assert connection.execute(select(tables.messages.c.text)).scalars().all() == ["Dear Amina"]


def test_bulk_queues_nothing_where_more_is_refused_than_may_be(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n+254711000002\n+254711000003\n12\n")
    told = error_of(sms("bulk", str(file), "--text", "Hello"))
    assert "1 of 4 rows would be refused, more than the 20%" in told
    with migrated.read() as connection:
        assert connection.execute(select(tables.batches.c.id)).all() == []
    assert sms("bulk", str(file), "--text", "Hello", "--max-refused", "0.25").exit_code == 0


@pytest.mark.parametrize(
    ("options", "answer", "batches"), [((), "n\n", 0), ((), "\n", 0), ((), "y\n", 1), (("--yes",), "", 1)]
)
def test_bulk_asks_whoever_can_answer(
    sms: Sms,
    migrated: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    answer: str,
    batches: int,
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    # click's runner puts a stream of its own in place of standard input.
    monkeypatch.setattr(bulk_preview, "is_terminal", lambda: True)
    result = sms("bulk", str(file), "--text", "Hello", *options, typed=answer)
    assert ("Send?" in result.output) is (not options)
    assert (result.exit_code == 0) is bool(batches)
    with migrated.read() as connection:
        assert len(connection.execute(select(tables.batches.c.id)).all()) == batches


@pytest.mark.parametrize(
    ("options", "is_terminal", "answer", "batches"),
    [
        ((), False, "", 1),
        (("--yes",), True, "", 1),
        (("--again",), False, "", 2),
        (("--again", "--yes"), True, "", 2),
        ((), True, "y\n", 2),
        ((), True, "n\n", 1),
        (("--idempotency-key", "another"), False, "", 1),
        (("--idempotency-key", "another"), True, "y\n", 2),
        (("--idempotency-key", "another"), True, "n\n", 1),
    ],
)
def test_bulk_sends_the_same_file_twice_in_a_day_only_where_somebody_says_so(
    sms: Sms,
    migrated: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    is_terminal: bool,
    answer: str,
    batches: int,
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    assert sms("bulk", str(file), "--text", "Hello").exit_code == 0
    monkeypatch.setattr(bulk_preview, "is_terminal", lambda: is_terminal)
    result = sms("bulk", str(file), "--text", "Hello", *options, typed=answer)
    assert "was sent with this text at" in result.output
    assert (result.exit_code == 0) is (batches == 2)
    with migrated.read() as connection:
        assert len(connection.execute(select(tables.batches.c.id)).all()) == batches
        assert connection.execute(select(tables.upload_pieces.c.upload_id)).all() == []
    assert sms("bulk", str(file), "--text", "Another text", "--yes").exit_code == 0


def test_a_yes_to_a_send_is_none_to_a_second_one_that_nobody_showed(
    sms: Sms, migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    assert sms("bulk", str(file), "--text", "Hello").exit_code == 0
    monkeypatch.setattr(bulk_preview, "is_terminal", lambda: True)
    # As if the first one had come while the question stood.
    monkeypatch.setattr(upload, "sent_before", lambda *_: None)
    for options in ((), ("--idempotency-key", "k")):
        result = sms("bulk", str(file), "--text", "Hello", *options, typed="y\n")
        assert (result.exit_code, "say that you mean it" in result.output) == (1, True)
    with migrated.read() as connection:
        assert len(connection.execute(select(tables.batches.c.id)).all()) == 1


def test_bulk_and_quote_take_the_sheet_that_is_named(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.xlsx"
    march, april = ([["phone"], [f"+25471100000{number}"]] for number in (1, 2))
    file.write_bytes(workbook({"March": march, "April": april}))
    named = ("--text", "Hello", "--sheet")
    quoted = sms("quote", str(file), *named, "April", "--json")
    assert json.loads(quoted.output)["samples"][0]["to"] == "+254711000002"
    assert "only: March, April" in error_of(sms("bulk", str(file), *named, "June"))
    for sheet in ("March", "April"):
        told = sms("bulk", str(file), *named, sheet)
        assert "was sent with this text" not in told.output
    with migrated.read() as connection:
        found = connection.execute(select(tables.messages.c.recipient)).scalars()
        assert sorted(found) == ["+254711000001", "+254711000002"]


def test_bulk_sends_the_texts_that_a_file_brings(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone;Message\n+254711000001;Come at nine\n")
    batch = json.loads(sms("bulk", str(file), "--json").output)
    assert (batch["status"], batch["total"]) == ("sending", 1)
    with migrated.read() as connection:
        assert connection.execute(select(tables.messages.c.text)).scalar_one() == "Come at nine"


def test_bulk_with_a_known_key_makes_no_second_batch(
    sms: Sms, migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    monkeypatch.setattr(bulk_preview, "is_terminal", lambda: True)
    for said in ("Batch 1: 1 messages", "Batch 1 (it was there already): 1 messages"):
        result = sms("bulk", str(file), "--text", "Hello", "--idempotency-key", "k", typed="y\n")
        assert said in result.output
        assert "would get it twice" not in result.output


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_bulk_interrupted_while_it_reads_sends_nothing(
    sms: Sms, migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    write_chunk, before = importer._write_chunk, signal.getsignal(number)

    def interrupt_within_a_transaction(database: Database, *others: Any) -> float:
        with database.write():
            signal.raise_signal(number)
            signal.raise_signal(number)
        return write_chunk(database, *others)

    monkeypatch.setattr(importer, "_write_chunk", interrupt_within_a_transaction)
    result = sms("bulk", str(file), "--text", "Hello")
    assert result.exit_code == 1
    assert (
        "Interrupted: batch 1 is cancelled; 1 messages will not be sent; 0 were sent already" in result.stderr
    )
    assert not due.has_due(migrated)
    assert signal.getsignal(number) is before
    assert progress.get_batch(migrated, 1)["counts"] == {"cancelled": 1}


def test_bulk_interrupted_while_it_waits_says_that_the_batch_goes_on(
    sms: Sms, migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    monkeypatch.setattr(progress, "watch", interrupt)
    result = sms("bulk", str(file), "--text", "Hello", "--wait")
    assert result.exit_code == 1
    assert "batch 1 goes on by itself; `sms batch cancel 1` ends it" in result.stderr
    assert progress.get_batch(migrated, 1)["status"] == "sending"


def test_bulk_that_waits_fails_where_its_batch_is_held(
    sms: Sms, migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    watch = progress.watch

    def pause_and_watch(database: Database, batch_id: int) -> Any:
        control.pause(database, batch_id)
        return watch(database, batch_id)

    monkeypatch.setattr(progress, "watch", pause_and_watch)
    result = sms("bulk", str(file), "--text", "Hello", "--wait")
    assert result.exit_code == 1
    assert "paused, by_hand" in result.stdout


def test_bulk_that_waits_fails_where_its_sender_is_paused(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    refused = "invalid_sender_id"
    in_write(migrated, lambda connection, now: pauses.pause(connection, "sender:ACME", refused, None, now))
    result = sms("bulk", str(file), "--text", "Hello", "--sender-id", "Acme", "--wait")
    assert result.exit_code == 1
    assert "1 wait because sending is paused (invalid_sender_id), see sms resume." in result.stdout


def test_bulk_that_waits_ends_where_its_batch_is_scheduled(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n")
    later = (datetime.now(UTC) + timedelta(days=20)).isoformat(timespec="seconds")
    result = sms("bulk", str(file), "--text", "Hello", "--send-at", later, "--wait")
    assert result.exit_code == 0
    assert "scheduled for " in result.stdout


def test_a_batch_is_held_and_ended_from_a_shell(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone\n+254711000001\n12\n")
    sms("bulk", str(file), "--text", "Hello", "--max-refused", "0.5")
    assert sms("batch", "pause", "1").stdout == "Batch 1 is paused.\n"
    assert sms("batch", "resume", "1").stdout == "Batch 1 is sending.\n"
    assert "1 messages will not be sent; 0 were sent already" in sms("batch", "cancel", "1").stdout
    assert parsed(sms("batch", "show", "1", "--json"))["counts"] == {"cancelled": 1}
    assert re.search(r"^cancelled +1 *$", sms("batch", "show", "1").stdout, re.MULTILINE)
    assert parsed(sms("batch", "bill", "1", "--json"))["billed_parts"] == 0
    assert "3,12,invalid_phone," in sms("batch", "refused", "1").stdout
    assert sms("batch", "duplicates", "1").stdout == "\ufeffline,value,code,reason,phone\n"
    (row,) = csv.DictReader(io.StringIO(sms("batch", "messages", "1").stdout))
    assert (row["to"], row["status"]) == ("+254711000001", "cancelled")
    for act in ("show", "pause", "resume", "cancel", "bill", "reasons", "refused", "messages"):
        assert error_of(sms("batch", act, "77")) == "Error: There is no batch 77"
    assert "it cannot be resumed" in error_of(sms("batch", "resume", "1"))


def test_bulk_of_a_file_that_cannot_be_read_fails(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("who\n+254711000001\n")
    result = sms("bulk", str(file), "--text", "Hello")
    assert result.exit_code == 1
    assert "`phone`" in result.output
    file.write_text("phone\n12\n")
    assert sms("bulk", str(file), "--text", "Hello").exit_code == 1


def test_doubtful_numbers_are_counted_and_named_for_people(
    sms: Sms, migrated: Database, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"phone\n{ALICE}\n+2547110000012\n")
    for result in (
        sms("quote", str(file), "--text", "Hello"),
        sms("bulk", str(file), "--text", "Hello"),
        sms("batch", "show", "1"),
    ):
        assert result.exit_code == 0
        assert "1 to look at:\n  line 3, +2547110000012: This number is possible" in result.stderr
    assert "  +2547110000012: This number is possible" in sms("send", "+2547110000012", "Hello").stderr


def test_the_column_of_the_numbers_can_be_chosen(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("mobile,tel,text\n12,+254711000009,Hello\n")
    assert "mobile, tel" in error_of(sms("bulk", str(file)))
    assert parsed(sms("quote", str(file), "--phone-column", "tel", "--json"))["recipients"] == 1
    assert parsed(sms("bulk", str(file), "--phone-column", "tel", "--json"))["total"] == 1


def test_the_country_of_a_file_can_be_chosen(sms: Sms, migrated: Database, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("phone,text\n0711000009,Hello\n")
    assert parsed(sms("quote", "--to", "0711000009", "--text", "Hi", "--json"))["recipients"] == 0
    named = ("--region", "KE", "--json")
    assert parsed(sms("quote", "--to", "0711000009", "--text", "Hi", *named))["recipients"] == 1
    assert parsed(sms("quote", str(file), *named))["recipients"] == 1
    assert parsed(sms("bulk", str(file), *named))["total"] == 1
    assert "two letters" in error_of(sms("quote", str(file), "--region", "Kenya"))


def test_times_are_read_and_shown_in_the_time_zone_of_the_people(
    settings: Settings, migrated: Database, tmp_path: Path
) -> None:
    app = create_app(settings.model_copy(update={"time_zone": "Africa/Nairobi"}))
    file = tmp_path / "people.csv"
    file.write_text(f"phone\n{ALICE}\n")
    tomorrow = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
    local = tomorrow.astimezone(ZoneInfo("Africa/Nairobi"))

    def call(*words: str) -> Result:
        return app.test_cli_runner().invoke(args=["sms", *words])

    bulk = ("bulk", str(file), "--text", "Hello", "--send-at")
    result = call(*bulk, f"{local:%Y-%m-%dT%H:%M}")
    shown = f"{local:%Y-%m-%d %H:%M:%S} Africa/Nairobi"
    assert f"scheduled for {shown}." in result.stdout
    assert shown in call("batch", "show", "1").stdout
    assert parsed(call("batch", "show", "1", "--json"))["send_at"] == f"{tomorrow:%Y-%m-%dT%H:%M:%S}.000Z"
    assert "Africa/Nairobi" in call("status", "1").stdout
    assert "in the past" in error_of(call(*bulk, "2025-12-01T08:00"))
    assert "is not a time" in error_of(call(*bulk, "2082787200"))
    app.extensions["sms"].callback_receiver.stop()
    app.extensions["sms"].database.close()


def test_quote_says_what_a_send_would_come_to(sms: Sms, tmp_path: Path) -> None:
    found = json.loads(sms("quote", "--to", ALICE, "--to", "12", "--text", "Hello", "--json").output)
    assert (found["recipients"], found["parts"], found["estimated_cost"]) == (1, 1, "unknown")
    file = tmp_path / "people.csv"
    file.write_text("phone,name\n+254711000001,Amina’s\n")
    result = sms("quote", str(file), "--text", "{{name}} " + "x" * 80)
    assert result.exit_code == 0
    assert "’" in result.output


def test_a_send_without_a_key_shows_one_that_makes_its_repeat_harmless(sms: Sms, migrated: Database) -> None:
    first = sms("send", ALICE, "Hello", "--json")
    (key,) = re.findall(r"^Idempotency-Key: (\S+)$", first.stderr, re.MULTILINE)
    again = sms("send", ALICE, "Hello", "--idempotency-key", key, "--json")
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert "Idempotency-Key" not in again.stderr


def test_a_database_that_goes_away_under_a_batch_names_the_batch(
    sms: Sms, migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    monkeypatch.setattr(progress, "get_batch", gone)
    file = tmp_path / "all.csv"
    file.write_text(f"phone\n{ALICE}\n")
    assert "batch 1 may be sent all the same: `sms batch show 1` tells" in error_of(
        sms("bulk", str(file), "--text", "Hello", "--json")
    )
