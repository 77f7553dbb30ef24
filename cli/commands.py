"""`flask --app app sms …`: what an operator does from a shell. Each command calls what the routes call."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import SQLAlchemyError

from cli.batch_control import batch
from cli.batches import bulk, quote
from cli.context import current_service, read_time, require_own_books
from cli.foreground import run_foreground
from cli.output import as_json_option, print_csv, print_json, print_table, show
from messaging.callbacks import fetch_inbound
from messaging.callbacks.replay import replay
from messaging.consent import csv_import
from messaging.consent import views as opt_out_views
from messaging.conversations.handlers import require_handlers
from messaging.forwarding import outbox, views
from messaging.messages import accept, unknown_outcomes
from messaging.messages.views import get_message
from messaging.operations.audit import audit
from messaging.operations.doctor import examine
from messaging.operations.health import explain_storage_error
from messaging.sending import pauses
from messaging.storage import migrations
from utils.errors import InvalidInput, ServiceError
from utils.phone_numbers import parse_phone

OPERATOR = "operator"
LEDGER_NAMES = (
    *("id", "at", "phone", "action", "scope", "sender_id", "source", "in_force"),
    *("callback_id", "callback_digest", "detail"),
)


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
sms.add_command(batch)


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
    # Web and worker look too; here a mistake is one line, not one among those of three processes that end.
    require_handlers(service.settings)
    service.database.close()
    sys.exit(run_foreground(service.settings))


@sms.command()
@click.argument("to")
@click.argument("text")
@click.option("--sender-id", help="Instead of AT_SENDER_ID.")
@click.option(
    "--idempotency-key", help="The same key within a day sends once; without one a new key is shown."
)
@as_json_option
def send(to: str, text: str, sender_id: str | None, idempotency_key: str | None, as_json: bool) -> None:
    """Queue TEXT for the phone number TO; the worker sends it."""
    service = current_service()
    require_own_books(service)
    request = accept.SendRequest([to], text, sender_id, origin="cli")
    with _key_shown(idempotency_key) as key:
        answer = accept.accept(service.settings, service.database, request, key).body
    message = answer["messages"][0]
    show(answer, as_json, f"Message {message['id']} to {message['to']} is {message['status']}.")


@contextmanager
def _key_shown(given: str | None) -> Iterator[str]:
    """A key of our own where none is given: whoever does not hear how it ended repeats the command with it."""
    key = given or secrets.token_hex(8)
    is_refused = False
    try:
        yield key
    except InvalidInput:
        is_refused = True
        raise
    finally:
        if not (given or is_refused):
            click.echo(f"Idempotency-Key: {key}", err=True)


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
    new_id = unknown_outcomes.resend(current_service().database, message_id)
    show({"id": new_id, "resend_of": message_id}, as_json, f"Message {new_id} is queued in its place.")


@sms.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def close(message_id: int, as_json: bool) -> None:
    """Let the unknown message ID rest; a report may still settle it."""
    unknown_outcomes.close(current_service().database, message_id)
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


@sms.command(name="fetch-inbound")
@click.option("--after", "after_id", type=click.IntRange(min=0), help="Start after this id of AT's inbox.")
@as_json_option
def fetch_inbound_texts(after_id: int | None, as_json: bool) -> None:
    """Take in what no callback brought, from Africa's Talking's inbox. Harmless to repeat."""
    service = current_service()
    require_own_books(service)
    done = fetch_inbound.Fetched()
    for done in fetch_inbound.fetch_inbound(service.settings, service.database, service.provider, after_id):
        click.echo(f"{done.read} read, {done.added} added (inbox id {done.last_id})", err=True)
    with service.database.read() as connection:
        unapplied = fetch_inbound.count_unapplied(connection)
    sentence = f"{done.added} added, {done.known} known, {done.unusable} unusable."
    if unapplied:
        sentence += f" {unapplied} could not be applied: sms replay --unapplied."
    show(asdict(done) | {"unapplied": unapplied}, as_json, sentence)
    sys.exit(1 if unapplied or done.unusable else 0)


@sms.group(name="forwarding", cls=SentenceGroup)
def forwarding_group() -> None:
    """Events to your own system: how they fare, once more, and on again after a pause."""


@forwarding_group.command(name="status")
@click.option("--state", type=click.Choice(["waiting", "delivered", "failed"]), help="Only these events.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@as_json_option
def show_forwarding_status(state: str | None, limit: int, as_json: bool) -> None:
    """Show how the receiver is doing, and the latest events. Exit code 1 while it is paused or fails."""
    service = current_service()
    found = views.show_forwarding(service.settings, service.database, state, limit=limit)
    if as_json:
        print_json(found)
    else:
        names = ("id", "type", "state", "attempts", "http_status", "last_error", "created_at")
        standing = {name: value for name, value in found.items() if name not in ("items", "next_cursor")}
        print_table(("", ""), ((name, value) for name, value in standing.items() if value is not None))
        print_table(names, ([item[name] for name in names] for item in found["items"]))
    sys.exit(1 if found["state"] in (views.PAUSED, views.FAILING) else 0)


@forwarding_group.command(name="resume")
@as_json_option
def resume_forwarding(as_json: bool) -> None:
    """End a pause, and try everything that waits at once."""
    was_paused = outbox.resume(current_service().database)
    sentence = "Forwarding goes on." if was_paused else "It was not paused; what waits is tried at once."
    show({"was_paused": was_paused}, as_json, sentence)


@forwarding_group.command(name="resend")
@click.argument("event_id", metavar="ID")
@as_json_option
def resend_event(event_id: str, as_json: bool) -> None:
    """Post the event ID again, with the id that it had."""
    outbox.resend(current_service().database, event_id)
    show({"id": event_id, "state": "waiting"}, as_json, f"{event_id} is posted again.")


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
    filters = opt_out_views.LedgerFilters(phone=wanted)
    entries = opt_out_views.list_entries(current_service().database, filters, limit=limit)["items"]
    if as_json:
        print_json(entries)
    else:
        print_table(LEDGER_NAMES, map(_in_cells, entries))


@opt_outs_group.command(name="add")
@click.argument("phone")
@click.option("--sender-id", help="Only texts from this sender; otherwise all that we send.")
@click.option("--detail", help="How it is known, for the ledger.")
@as_json_option
def add_opt_out(phone: str, sender_id: str | None, detail: str | None, as_json: bool) -> None:
    """Stop texting PHONE."""
    database, wanted = current_service().database, _read_phone(phone)
    answer = opt_out_views.stop(database, wanted, sender_id, detail, OPERATOR)
    sentence = "is not texted any more" if answer["added"] else "was not texted before either"
    show(answer, as_json, f"{wanted} {sentence}.")


@opt_outs_group.command(name="lift")
@click.argument("phone")
@click.option("--sender-id", help="Only the block for this sender.")
@click.option("--detail", help="Why, for the ledger.")
@as_json_option
def lift_opt_out(phone: str, sender_id: str | None, detail: str | None, as_json: bool) -> None:
    """Text PHONE again. What the network blocks stays blocked there."""
    database, wanted = current_service().database, _read_phone(phone)
    answer = opt_out_views.lift(database, wanted, sender_id, detail, OPERATOR)
    elsewhere = answer["elsewhere"]
    advice = f" {elsewhere['advice']}" if elsewhere else ""
    show(answer, as_json, f"{wanted} may be texted again.{advice}")


@opt_outs_group.command(name="export")
@as_json_option
def export_opt_outs(as_json: bool) -> None:
    """Print the whole ledger as CSV, newest first, each entry with its evidence in the journal."""
    entries = opt_out_views.all_entries(current_service().database)
    if as_json:
        print_json(list(entries))
    else:
        print_csv(LEDGER_NAMES, map(_in_cells, entries))


@opt_outs_group.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
def import_opt_outs(file: Path, as_json: bool) -> None:
    """Stop texting everyone in FILE, a CSV with the column phone and, where wanted, sender_id and reason."""
    service = current_service()
    with file.open("rb") as raw, _progress_of(file, as_json) as bar:
        done = csv_import.import_opt_outs(
            service.database, raw, service.settings.default_region, lambda: bar.update(raw.tell() - bar.pos)
        )
    show(asdict(done), as_json, f"{done.added} added, {done.known} known, {done.refused_count} refused.")
    if not as_json:
        print_table(("line", "code", "why"), ([one[name] for name in one] for one in done.refused))
    sys.exit(1 if done.refused_count else 0)


def _progress_of(file: Path, as_json: bool) -> Any:
    """A bar over the bytes of the file, on standard error so that the answer can be piped."""
    return click.progressbar(length=file.stat().st_size, label=file.name, file=sys.stderr, hidden=as_json)


def _in_cells(entry: dict[str, Any]) -> list[object]:
    evidence = entry["evidence"] or {}
    known = {"callback_id": evidence.get("callback_id"), "callback_digest": evidence.get("digest")}
    return [(entry | known)[name] for name in LEDGER_NAMES]


def _read_phone(phone: str) -> str:
    return parse_phone(phone, current_service().settings.default_region).e164
