"""`sms send`, `status`, `resend`, `close`: single messages."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service, require_own_database
from cli.output import as_json_option, print_json, print_table, show, show_warnings
from messaging.consent import ledger
from messaging.messages import accept, unknown_outcomes
from messaging.messages.views import get_message
from utils.errors import InvalidInput

commands = AppGroup()


@commands.command()
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
    require_own_database(service)
    request = accept.SendRequest([to], text, sender_id, origin="cli")
    with _key_shown(idempotency_key) as key:
        answer = accept.accept(service.settings, service.database, request, key, ledger.suppressed).body
    message = answer["messages"][0]
    show(answer, as_json, f"Message {message['id']} to {message['to']} is {message['status']}.")
    if not as_json:
        if answer["blocked"]:
            click.echo("The recipient opted out: it will be blocked, not sent.", err=True)
        show_warnings(answer)


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


@commands.command()
@click.argument("message_id", metavar="ID", type=int)
@as_json_option
def status(message_id: int, as_json: bool) -> None:
    """Show what happened to the message ID."""
    message = get_message(current_database(), message_id)
    if as_json:
        print_json(message)
        return
    history = message.pop("history")
    print_table(("", ""), ((name, value) for name, value in message.items() if value is not None))
    click.echo()
    names = ("at", "status", "source", "detail")
    print_table(names, ([entry[name] for name in names] for entry in history))


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
