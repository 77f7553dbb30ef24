"""`sms forget`: one person erased everywhere."""

from __future__ import annotations

import sys

import click
from flask.cli import AppGroup

from cli.context import current_service, read_phone_argument
from cli.output import as_json_option, show
from messaging.operations.forget import forget

commands = AppGroup()


@commands.command(name="forget")
@click.argument("phone")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
def forget_person(phone: str, yes: bool, as_json: bool) -> None:
    """Erase PHONE everywhere, test data too: texts, numbers, raw callbacks. Counts, costs and an opt-out stay.

    The opt-out is kept as a hash, so that who said STOP is not texted again. This cannot be undone, and no backup that
    was made before is changed.
    """
    wanted = read_phone_argument(phone)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Erase everything about {wanted}? This cannot be undone", abort=True, err=True)
    found = forget(current_service(), wanted)
    words = (
        ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items()) or "nothing was there"
    )
    show({"phone": wanted, "erased": found}, as_json, f"Erased: {words}.")
