"""`sms proof`: why a person was or was not texted."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from cli.context import current_database, read_phone_argument
from cli.output import as_json_option, print_json
from messaging.operations.proof import prove

commands = AppGroup()
CONSENT = ("purpose", "wording", "wording_version", "source", "evidence")


@commands.command(name="proof")
@click.argument("phone")
@as_json_option
def show_proof(phone: str, as_json: bool) -> None:
    """Print everything that shows why PHONE was or was not texted: consents, opt-outs, messages and their histories."""
    wanted = read_phone_argument(phone)
    entries = prove(current_database(), wanted)
    if as_json:
        print_json([{"kind": kind, **entry} for kind, entry in entries])
        return
    count = 0
    for count, (kind, entry) in enumerate(entries, 1):  # noqa: B007
        click.echo("\n".join(_LINES[kind](entry)))
    if not count:
        click.echo(f"Nothing is known about {wanted}.")


def _consent(entry: dict[str, Any]) -> list[str]:
    verb = "agreed" if entry["action"] == "give" else "withdrew consent"
    said = [f"  {name.replace('_', ' ')}: {entry[name]}" for name in CONSENT if entry[name]]
    return [f"{entry['at']}  {verb}{_scope(entry)}{_standing(entry)}", *said]


def _opt_out(entry: dict[str, Any]) -> list[str]:
    lines = [f"{entry['at']}  opt-out: {entry['action']}{_scope(entry)}{_standing(entry)}"]
    lines.append(f"  source: {entry['source']}")
    if entry["detail"]:
        lines.append(f"  detail: {entry['detail']}")
    if evidence := entry["evidence"]:
        lines.append(f"  evidence: callback {evidence['callback_id']}, digest {evidence['digest']}")
    return lines


def _message(entry: dict[str, Any]) -> list[str]:
    reason = f" ({entry['reason']})" if entry.get("reason") else ""
    sender = entry["sender_id"] or "the default sender"
    head = f"{entry['created_at']}  message {entry['id']} from {sender}: {entry['status']}{reason}"
    steps = [
        f"  {step['at']}  {step['status'] or ''}  {step['source']}  {step['detail'] or ''}".rstrip()
        for step in entry["history"]
    ]
    return [head, f"  text: {entry['text']}", *steps]


def _scope(entry: dict[str, Any]) -> str:
    return f" for {entry['sender_id']}" if entry["sender_id"] else " for all senders"


def _standing(entry: dict[str, Any]) -> str:
    return ", in force" if entry["in_force"] else ""


_LINES = {"consent": _consent, "opt_out": _opt_out, "message": _message}
