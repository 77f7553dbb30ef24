"""`sms messages`, `status`: what happened to messages."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from cli.context import current_database, read_phone_argument, read_time
from cli.output import CURSOR, LIMIT, as_json_option, print_json, print_page, print_table
from messaging import statuses
from messaging.messages.views import MessageFilters, get_message, list_messages
from utils.json_shapes import LARGEST_ID

commands = AppGroup()


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
