"""`sms inbound`, `conversations`, `reply`: what people wrote to us, and what we answer."""

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
from cli.output import CURSOR, LIMIT, as_json_option, print_page, show
from messaging.conversations import threads
from messaging.conversations.inbound_views import InboundFilters, list_inbound
from messaging.conversations.views import get_conversation, list_conversations
from utils.errors import InvalidPhone

INBOUND = ("id", "received_at", "from", "to", "meaning", "possible_opt_out", "reply", "text")
CONVERSATIONS = ("phone", "number", "unread", "last_inbound_at", "latest")
LINES = ("at", "direction", "number", "status", "reply", "text")

commands = AppGroup()


@commands.command(name="inbound")
@click.option("--from", "sender", help="Only texts of this phone.")
@click.option("--to", "recipient", help="Only texts to this number of ours.")
@click.option(
    "--meaning",
    type=click.Choice(["message", "stop", "start", "help", "join"]),
    help="What it was taken for.",
)
@click.option("--reply", help="Only texts whose answer became this, like held or failed.")
@click.option(
    "--since", metavar="TIME", help="Received at this time or later, like 2026-11-24T08:00 (TIME_ZONE)."
)
@click.option("--until", metavar="TIME", help="Received before this time.")
@LIMIT
@CURSOR
@as_json_option
def show_inbound(
    sender: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    **equal: Any,
) -> None:
    """Show the texts that came, newest first."""
    filters = InboundFilters(
        sender=None if sender is None else _sender(sender),
        since=None if since is None else read_time(since),
        until=None if until is None else read_time(until),
        **equal,
    )
    print_page(list_inbound(current_database(), filters, cursor, limit), as_json, INBOUND)


@commands.command(name="conversations")
@click.argument("phone", required=False)
@click.option("--unread", is_flag=True, help="Only those with unread texts.")
@LIMIT
@CURSOR
@as_json_option
def show_conversations(
    phone: str | None, unread: bool, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Show everyone who wrote to us, or both directions of one PHONE; the latest first."""
    database = current_database()
    if phone is not None:
        found = get_conversation(database, read_phone_argument(phone), cursor, limit)
        print_page(found, as_json, LINES)
        return
    found = list_conversations(database, cursor, limit, only_unread=unread)
    if not as_json:
        found["items"] = [one | {"latest": _text_of(one["latest"])} for one in found["items"]]
    print_page(found, as_json, CONVERSATIONS)


@commands.command()
@click.argument("phone")
@click.argument("text")
@KEY
@as_json_option
def reply(phone: str, text: str, idempotency_key: str | None, as_json: bool) -> None:
    """Answer PHONE with TEXT, from the number that it wrote to last."""
    service = current_service()
    require_own_database(service)
    with key_shown(idempotency_key) as key:
        answer = threads.say(service.database, read_phone_argument(phone), text, key).body
    show(
        answer,
        as_json,
        f"Message {answer['id']} to {answer['to']} from {answer['sender_id']} is {answer['status']}.",
    )


def _text_of(line: dict[str, Any] | None) -> str | None:
    return None if line is None else str(line["text"])


def _sender(typed: str) -> str:
    """E.164 where it is a phone's; networks also write from names and short numbers."""
    try:
        return read_phone_argument(typed)
    except InvalidPhone:
        return typed
