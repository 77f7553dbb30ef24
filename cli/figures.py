"""`sms balance`: what is left on the account."""

from __future__ import annotations

from flask.cli import AppGroup

from cli.context import current_service
from cli.output import as_json_option, in_words, show

commands = AppGroup()


@commands.command()
@as_json_option
def balance(as_json: bool) -> None:
    """Show what is left on the account at Africa's Talking."""
    found = current_service().balance.read()
    show(found, as_json, in_words(found["balance"]))
