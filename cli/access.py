"""`sms keys …`, `sms actions`: who may call, and who changed what."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from cli.context import current_database, read_time
from cli.output import as_json_option, print_json, print_table, show
from messaging.access import keys
from messaging.access.actions import list_actions

KEY_COLUMNS = (
    "name",
    "prefix",
    "scopes",
    "created_at",
    "created_by",
    "expires_at",
    "last_used_at",
    "revoked_at",
)
ACTION_COLUMNS = ("id", "at", "actor", "address", "action", "subject", "before", "after")

commands = AppGroup()


@commands.group(name="keys")
def keys_group() -> None:
    """API keys: made, listed, revoked. Those in API_KEYS are valid beside them, with all scopes."""


@keys_group.command(name="create")
@click.option("--name", required=True, help="For whom or what it is, like billing.")
@click.option(
    "--scope",
    "scopes",
    required=True,
    help=f"What it may do, separated by commas: {', '.join(keys.SCOPES)}.",
)
@click.option(
    "--expires", metavar="TIME", help="Like 2027-01-31T00:00 (TIME_ZONE); without it it stays valid."
)
@as_json_option
def create_key(name: str, scopes: str, expires: str | None, as_json: bool) -> None:
    """Make a key and show it, this once: only a hash of it is kept."""
    moment = None if expires is None else read_time(expires)
    wanted = [one.strip() for one in scopes.split(",") if one.strip()]
    key, made = keys.create(current_database(), name, wanted, moment)
    if as_json:
        print_json({"key": key, **made})
        return
    click.echo(key)
    click.echo("Keep it now: it is not shown again.", err=True)


@keys_group.command(name="list")
@as_json_option
def list_keys(as_json: bool) -> None:
    """Show all keys, with when they were last used. The keys themselves are not kept."""
    found = keys.list_keys(current_database())
    if as_json:
        print_json(found)
    else:
        shown = ({**one, "scopes": ", ".join(one["scopes"])} for one in found)
        print_table(KEY_COLUMNS, ([one[name] for name in KEY_COLUMNS] for one in shown))


@keys_group.command(name="revoke")
@click.argument("name")
@as_json_option
def revoke_key(name: str, as_json: bool) -> None:
    """End the key NAME. Processes that have just seen it let it pass for five seconds more."""
    show(keys.revoke(current_database(), name), as_json, f"The key {name} is not valid any more.")


@commands.command(name="actions")
@click.option("--actor", help="Only theirs, like key:billing or shell:root.")
@click.option("--subject", help="Only what was done to it, like batch:7.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@as_json_option
def show_actions(actor: str | None, subject: str | None, limit: int, as_json: bool) -> None:
    """Show what persons and keys changed, newest first."""
    found = list_actions(current_database(), actor, subject, limit=limit)["items"]
    if as_json:
        print_json(found)
    else:
        print_table(ACTION_COLUMNS, ([one[name] for name in ACTION_COLUMNS] for one in found))
