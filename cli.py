"""`flask --app app sms …`: what an operator does from a shell. Each command calls what the routes call."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import SQLAlchemyError

from cli_batches import bulk, quote
from cli_context import current_service, read_time, require_own_books
from cli_output import as_json_option, print_csv, print_json, print_table, show
from messaging import migrations, opt_outs, pauses, sends, unknowns
from messaging.audit import audit
from messaging.doctor import examine
from messaging.health import explain_storage_error
from messaging.json_shapes import rfc3339
from messaging.message_views import get_message
from messaging.replay import replay
from messaging.service import Service
from processes import run_foreground
from utils.errors import NotFound, ServiceError
from utils.phone_numbers import parse_phone

OPERATOR = "operator"
LEDGER_NAMES = ("id", "at", "phone", "action", "scope", "sender_id", "source", "callback_id", "detail")
LEDGER_PAGE = 500


class SentenceGroup(AppGroup):
    """Every failure is one sentence on standard error and exit code 1; never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServiceError as error:
            raise click.ClickException(error.message) from None
        except SQLAlchemyError as error:
            # The app's context has ended with the command.
            service = ctx.ensure_object(ScriptInfo).load_app().extensions["sms"]
            explained = explain_storage_error(service.database, error)
            raise click.ClickException(explained.message) from None


sms = SentenceGroup("sms", help="Run and look after the SMS service.")
sms.add_command(bulk)
sms.add_command(quote)


@sms.command()
@as_json_option
def migrate(as_json: bool) -> None:
    """Bring the database's tables up to date."""
    migrations.migrate(current_service().database)
    show({"migrated": True}, as_json, "The database is up to date.")


@sms.command()
def start() -> None:
    """Run web, worker and, offline, the simulator in the foreground."""
    service = current_service()
    require_own_books(service)
    service.database.close()
    sys.exit(run_foreground(service.settings))


@sms.command()
@click.argument("to")
@click.argument("text")
@click.option("--sender-id", help="Instead of AT_SENDER_ID.")
@click.option("--idempotency-key", help="The same key within a day sends once.")
@as_json_option
def send(to: str, text: str, sender_id: str | None, idempotency_key: str | None, as_json: bool) -> None:
    """Queue TEXT for the phone number TO; the worker sends it."""
    service = current_service()
    require_own_books(service)
    request = sends.SendRequest([to], text, sender_id, origin="cli")
    answer = sends.accept(service.settings, service.database, request, idempotency_key).body
    message = answer["messages"][0]
    show(answer, as_json, f"Message {message['id']} to {message['to']} is {message['status']}.")


@sms.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def status(message_id: int, as_json: bool) -> None:
    """Show what happened to the message ID."""
    message = get_message(current_service().database, message_id)
    if as_json:
        print_json(message)
        return
    history = message.pop("history")
    print_table(("", ""), ((name, value) for name, value in message.items() if value is not None))
    click.echo()
    names = ("at", "status", "source", "detail")
    print_table(names, ([entry[name] for name in names] for entry in history))


@sms.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def resend(message_id: int, as_json: bool) -> None:
    """Send the unknown message ID again, as a new one. Its recipient may get both."""
    new_id = unknowns.resend(current_service().database, message_id)
    show({"id": new_id, "resend_of": message_id}, as_json, f"Message {new_id} is queued in its place.")


@sms.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def close(message_id: int, as_json: bool) -> None:
    """Let the unknown message ID rest; a report may still settle it."""
    unknowns.close(current_service().database, message_id)
    show({"id": message_id, "closed": True}, as_json, f"Message {message_id} is closed.")


@sms.command()
@click.option("--sender-id", help="Only this sender id; otherwise everything.")
@as_json_option
def resume(sender_id: str | None, as_json: bool) -> None:
    """Lift the pause of the account or of a sender id."""
    lifted = pauses.resume_now(current_service().database, sender_id)
    show({"resumed": lifted}, as_json, f"Pauses lifted: {lifted}.")


@sms.command(name="replay")
@click.argument("callback_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--since", metavar="TIME", help="Those received at this time or later, like 2026-11-24T08:00Z.")
@click.option("--unapplied", is_flag=True, help="Only those that could not be applied.")
@as_json_option
def replay_callbacks(callback_ids: Sequence[int], since: str | None, unapplied: bool, as_json: bool) -> None:
    """Apply journaled callbacks again, by ID, since a time, or all that failed. Nothing takes effect twice."""
    if not (callback_ids or since or unapplied):
        raise click.UsageError("Name callback ids, or --since, or --unapplied.")
    service = current_service()
    moment = None if since is None else read_time(since)
    counts = asdict(replay(service.database, service.settings, list(callback_ids) or None, moment, unapplied))
    show(counts, as_json, ", ".join(f"{number} {name}" for name, number in counts.items()) + ".")
    sys.exit(1 if counts["unapplied"] else 0)


@sms.command(name="audit")
@as_json_option
def audit_books(as_json: bool) -> None:
    """Prove the books; exit code 1 where they contradict themselves."""
    found = audit(current_service().database)
    if as_json:
        print_json(found.as_json())
    else:
        print_table(("", ""), found.counts.items())
        rows = [(problem.kind, problem.message_id, problem.detail) for problem in found.problems]
        if rows:
            print_table(("problem", "message", "detail"), rows)
        if found.listed:
            print_table(("to look at", "id", "detail"), (list(one.values()) for one in found.listed))
        click.echo("The books are right." if found.ok else f"Problems: {len(rows)}.")
    sys.exit(0 if found.ok else 1)


@sms.command()
@as_json_option
def doctor(as_json: bool) -> None:
    """Look at every part of the set-up; exit code 1 where somebody must act."""
    findings = list(examine(current_service()))
    if as_json:
        print_json([{"part": one.part, "ok": one.is_well, "says": one.says} for one in findings])
    else:
        print_table(("", "", ""), ((one.part, "ok" if one.is_well else "ACT", one.says) for one in findings))
    sys.exit(0 if all(one.is_well for one in findings) else 1)


@sms.group(name="opt-outs", cls=SentenceGroup)
def opt_outs_group() -> None:
    """Who may not be texted, and since when."""


@opt_outs_group.command(name="list")
@click.option("--phone", help="Only this number.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@as_json_option
def list_opt_outs(phone: str | None, limit: int, as_json: bool) -> None:
    """Show the ledger, newest first."""
    wanted = None if phone is None else _read_phone(phone)
    with current_service().database.read() as connection:
        entries = [_in_json(entry) for entry in opt_outs.entries(connection, wanted, limit=limit)]
    if as_json:
        print_json(entries)
    else:
        names = (*LEDGER_NAMES, "in_force")
        print_table(names, ([entry[name] for name in names] for entry in entries))


@opt_outs_group.command(name="add")
@click.argument("phone")
@click.option("--sender-id", help="Only texts from this sender; otherwise all that we send.")
@click.option("--detail", help="How it is known, for the ledger.")
@as_json_option
def add_opt_out(phone: str, sender_id: str | None, detail: str | None, as_json: bool) -> None:
    """Stop texting PHONE."""
    database, wanted = current_service().database, _read_phone(phone)
    scope = "all" if sender_id is None else "sender"
    with database.write() as connection:
        added = opt_outs.record_stop(
            database, connection, wanted, scope, sender_id, source=OPERATOR, detail=detail
        )
    sentence = "is not texted any more" if added else "was not texted before either"
    show({"phone": wanted, "added": added}, as_json, f"{wanted} {sentence}.")


@opt_outs_group.command(name="lift")
@click.argument("phone")
@click.option("--sender-id", help="Only the block for this sender.")
@click.option("--detail", help="Why, for the ledger.")
@as_json_option
def lift_opt_out(phone: str, sender_id: str | None, detail: str | None, as_json: bool) -> None:
    """Text PHONE again. What the network blocks stays blocked there."""
    database, wanted = current_service().database, _read_phone(phone)
    with database.write() as connection:
        lifted = opt_outs.lift(database, connection, wanted, sender_id, source=OPERATOR, detail=detail)
    if not lifted:
        raise NotFound(f"Nothing stops texts to {wanted}")
    show({"phone": wanted, "lifted": lifted}, as_json, f"{wanted} may be texted again.")


@opt_outs_group.command(name="export")
@as_json_option
def export_opt_outs(as_json: bool) -> None:
    """Print the whole ledger as CSV, newest first."""
    entries = _whole_ledger(current_service())
    if as_json:
        print_json(list(entries))
    else:
        print_csv(LEDGER_NAMES, ([entry[name] for name in LEDGER_NAMES] for entry in entries))


def _whole_ledger(service: Service) -> Iterator[dict[str, Any]]:
    before_id: int | None = None
    while True:
        with service.database.read() as connection:
            page = opt_outs.entries(connection, before_id=before_id, limit=LEDGER_PAGE)
        if not page:
            return
        yield from (_in_json(entry) for entry in page)
        before_id = page[-1].id


def _in_json(entry: opt_outs.LedgerEntry) -> dict[str, Any]:
    shown = {name: getattr(entry, name) for name in LEDGER_NAMES}
    return shown | {"at": rfc3339(entry.at), "in_force": entry.is_in_force}


def _read_phone(phone: str) -> str:
    return parse_phone(phone, current_service().settings.default_region).e164
