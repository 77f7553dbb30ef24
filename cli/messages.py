"""`sms send`, `messages`, `status`, `resend`, `close`: single messages."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from cli.context import (
    current_database,
    current_service,
    read_phone_argument,
    read_time,
    require_own_database,
)
from cli.idempotency import KEY, key_shown
from cli.output import CURSOR, LIMIT, as_json_option, print_json, print_page, print_table, show, show_warnings
from messaging import statuses
from messaging.consent import ledger
from messaging.messages import accept, unknown_outcomes
from messaging.messages.views import MessageFilters, get_message, list_messages
from utils.json_shapes import LARGEST_ID

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


@commands.command(name="messages")
@click.option("--to", help="Only this number.")
@click.option("--status", type=click.Choice(statuses.ALL), help="Only messages that stand here.")
@click.option("--batch", "batch_id", type=click.IntRange(1, LARGEST_ID), help="Only this batch.")
@click.option(
    "--since", metavar="TIME", help="Made at this time or later, like 2026-11-24T08:00 (TIME_ZONE)."
)
@click.option("--until", metavar="TIME", help="Made before this time.")
@click.option("--reference", help="The caller's own id.")
@click.option("--created-by", help="Only what this key or person asked for, like key:billing.")
@click.option("--text", metavar="WORDS", help="Words that all occur in the text.")
@click.option("--q", metavar="WORDS", help="Part of the text, in any case.")
@LIMIT
@CURSOR
@as_json_option
def show_messages(
    to: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    **equal: Any,
) -> None:
    """Find messages, newest first."""
    filters = MessageFilters(
        **equal,
        to=None if to is None else read_phone_argument(to),
        since=None if since is None else read_time(since),
        until=None if until is None else read_time(until),
    )
    found = list_messages(current_database(), filters, cursor, limit)
    print_page(
        found,
        as_json,
        ("id", "created_at", "to", "reference", "status", "reason", "batch_id", "cost", "text"),
    )


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
