"""`sms send`, `resend`, `close`: what becomes of single messages is decided."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service, require_own_database
from cli.idempotency import KEY, key_shown
from cli.output import as_json_option, show, show_warnings
from messaging.consent import ledger
from messaging.messages import accept, unknown_outcomes

commands = AppGroup()


@commands.command()
@click.argument("to")
@click.argument("text")
@click.option("--sender-id", help="Instead of AT_SENDER_ID.")
@click.option("--reference", help="Your own id of it, never sent.")
@KEY
@as_json_option
def send(
    to: str,
    text: str,
    sender_id: str | None,
    reference: str | None,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Queue TEXT for the phone number TO; the worker sends it."""
    service = current_service()
    require_own_database(service)
    request = accept.SendRequest([to], text, sender_id, origin="cli", reference=reference)
    with key_shown(idempotency_key) as key:
        answer = accept.accept(service.settings, service.database, request, key, ledger.suppressed).body
    message = answer["messages"][0]
    show(answer, as_json, f"Message {message['id']} to {message['to']} is {message['status']}.")
    if not as_json:
        if "paused" in answer:
            click.echo("A brake holds it until an approver releases it: sms held list", err=True)
        if answer["blocked"]:
            click.echo("The recipient opted out: it will be blocked, not sent.", err=True)
        show_warnings(answer)


@commands.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def resend(message_id: int, as_json: bool) -> None:
    """Send the unknown message ID again, as a new one. Its recipient may get both."""
    new_id = unknown_outcomes.resend(current_database(), message_id)
    show({"id": new_id, "resend_of": message_id}, as_json, f"Message {new_id} is queued in its place.")


@commands.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def close(message_id: int, as_json: bool) -> None:
    """Let the unknown message ID rest; a report may still settle it."""
    unknown_outcomes.close(current_database(), message_id)
    show({"id": message_id, "closed": True}, as_json, f"Message {message_id} is closed.")
