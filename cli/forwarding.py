"""`sms forwarding …`: events to your own system."""

from __future__ import annotations

import sys

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service
from cli.output import as_json_option, print_json, print_table, show
from messaging.forwarding import outbox, views

commands = AppGroup()


@commands.group(name="forwarding")
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
        receiver = {name: value for name, value in found.items() if name not in ("items", "next_cursor")}
        print_table(("", ""), ((name, value) for name, value in receiver.items() if value is not None))
        print_table(names, ([item[name] for name in names] for item in found["items"]))
    sys.exit(1 if found["state"] in (views.PAUSED, views.FAILING) else 0)


@forwarding_group.command(name="resume")
@as_json_option
def resume_forwarding(as_json: bool) -> None:
    """End a pause, and try everything that waits at once."""
    was_paused = outbox.resume(current_database())
    sentence = "Forwarding goes on." if was_paused else "It was not paused; what waits is tried at once."
    show({"was_paused": was_paused}, as_json, sentence)


@forwarding_group.command(name="resend")
@click.argument("event_id", metavar="ID")
@as_json_option
def resend_event(event_id: str, as_json: bool) -> None:
    """Post the event ID again, with the id that it had."""
    outbox.resend(current_database(), event_id)
    show({"id": event_id, "state": "waiting"}, as_json, f"{event_id} is posted again.")
