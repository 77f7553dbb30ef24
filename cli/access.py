"""`sms keys …`, `sms actions`: who may call, and who changed what."""

from __future__ import annotations

import re
from datetime import datetime

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service, read_time, time_zone
from cli.output import CURSOR, LIMIT, as_json_option, in_words, print_json, print_page, print_table, show
from messaging.access import keys, operators, sessions
from messaging.access.actions import list_actions
from messaging.operations.store_of_test_keys import StoreOfTestKeys
from utils.local_times import read_end_of_day

KEY_COLUMNS = (
    "name",
    "prefix",
    "scopes",
    "test",
    "daily_limit",
    "created_at",
    "created_by",
    "expires_at",
    "last_used_at",
    "revoked_at",
)
OPERATOR_COLUMNS = ("name", "role", "state", "created_at", "created_by")
SESSION_COLUMNS = ("id", "operator", "address", "agent", "created_at", "seen_at")
ACTION_COLUMNS = ("id", "at", "actor", "address", "action", "subject", "before", "after")
NO_LIMIT = "none"
_DAY = re.compile(r"\d{4}-\d\d-\d\d")

commands = AppGroup()


@commands.group(name="keys")
def keys_group() -> None:
    """API keys: made, listed, limited, revoked. Those in API_KEYS are valid beside them, with all scopes."""


@keys_group.command(name="create")
@click.option("--name", required=True, help="For whom or what it is, like billing.")
@click.option(
    "--scope",
    "scopes",
    required=True,
    help=f"What it may do, separated by commas: {', '.join(keys.SCOPES)}.",
)
@click.option(
    "--expires",
    metavar="TIME",
    help="Like 2027-01-31T08:00 (TIME_ZONE), or a day, to whose end it is valid; without it it stays valid.",
)
@click.option("--daily-limit", metavar="MONEY", help="What its sends may cost in a day, like 'KES 5000'.")
@click.option(
    "--test",
    "is_test",
    is_flag=True,
    help=f"For test data only, and never to Africa's Talking; of the scopes it takes {' and '.join(keys.TEST_SCOPES)}.",
)
@as_json_option
def create_key(
    name: str, scopes: str, expires: str | None, daily_limit: str | None, is_test: bool, as_json: bool
) -> None:
    """Make a key and show it, this once: only a hash of it is kept."""
    moment = None if expires is None else _read_expiry(expires)
    wanted = [one.strip() for one in scopes.split(",") if one.strip()]
    if is_test:
        # First: a store that cannot be made leaves no key behind.
        StoreOfTestKeys(current_service()).open()
    key, made = keys.create(current_database(), name, wanted, moment, daily_limit, test=is_test)
    if as_json:
        print_json({"key": key, **made})
        return
    click.echo(key)
    click.echo("Keep it now: it is not shown again.", err=True)


def _read_expiry(text: str) -> datetime:
    return read_end_of_day(text, time_zone()) if _DAY.fullmatch(text) else read_time(text)


@keys_group.command(name="list")
@as_json_option
def list_keys(as_json: bool) -> None:
    """Show all keys, with when they were last used. The keys themselves are not kept."""
    found = keys.list_keys(current_database())
    if as_json:
        print_json(found)
    else:
        shown = (
            {
                **one,
                "scopes": ", ".join(one["scopes"]),
                "test": "test" if one["test"] else "",
                "daily_limit": in_words(one["daily_limit"]),
            }
            for one in found
        )
        print_table(KEY_COLUMNS, ([one[name] for name in KEY_COLUMNS] for one in shown))


@keys_group.command(name="limit")
@click.argument("name")
@click.argument("money")
@as_json_option
def limit_key(name: str, money: str, as_json: bool) -> None:
    """Change what the sends of the key NAME may cost in a day, to MONEY like 'KES 9000', or to none.

    It counts at the next text that leaves. What is counted of today stays.
    """
    changed = keys.change_limit(current_database(), name, None if money == NO_LIMIT else money)
    said = in_words(changed["daily_limit"])
    told = f"may spend {said} in a day" if said else "has no limit of its own"
    show(changed, as_json, f"The key {name} {told}.")


@keys_group.command(name="revoke")
@click.argument("name")
@as_json_option
def revoke_key(name: str, as_json: bool) -> None:
    """End the key NAME. Processes that have just seen it let it pass for five seconds more."""
    show(keys.revoke(current_database(), name), as_json, f"The key {name} is not valid any more.")


@commands.group(name="operators")
def operators_group() -> None:
    """Persons who log in: added, given a role, disabled."""


@operators_group.command(name="add")
@click.argument("name")
@click.option("--role", type=click.Choice(operators.ROLES), required=True)
@as_json_option
def add_operator(name: str, role: str, as_json: bool) -> None:
    """Add NAME, and show the link by which a password is chosen, once."""
    _show_link(name, operators.add(current_database(), name, role), as_json)


@operators_group.command(name="link")
@click.argument("name")
@as_json_option
def renew_link(name: str, as_json: bool) -> None:
    """Show another link for NAME: for who forgot the password, or was disabled."""
    _show_link(name, operators.new_link(current_database(), name), as_json)


@operators_group.command(name="role")
@click.argument("name")
@click.argument("role", type=click.Choice(operators.ROLES))
@as_json_option
def change_role(name: str, role: str, as_json: bool) -> None:
    """Change what NAME may do. It counts at the next page."""
    operators.change_role(current_database(), name, role)
    show({"name": name, "role": role}, as_json, f"{name} is {role} now.")


@operators_group.command(name="disable")
@click.argument("name")
@as_json_option
def disable_operator(name: str, as_json: bool) -> None:
    """Let NAME in no more, and end every session."""
    operators.disable(current_database(), name)
    show({"name": name, "state": "disabled"}, as_json, f"{name} cannot log in any more.")


@operators_group.command(name="list")
@as_json_option
def list_operators(as_json: bool) -> None:
    """Show everybody who may log in."""
    found = operators.list_operators(current_database())
    if as_json:
        print_json(found)
    else:
        print_table(OPERATOR_COLUMNS, ([one[name] for name in OPERATOR_COLUMNS] for one in found))


@operators_group.command(name="sessions")
@click.option("--end", "session_id", metavar="ID", type=int, help="End this one.")
@as_json_option
def show_sessions(session_id: int | None, as_json: bool) -> None:
    """Show who is logged in, and from where."""
    if session_id is not None:
        sessions.end(current_database(), session_id)
    found = sessions.list_sessions(current_database())
    if as_json:
        print_json(found)
    else:
        print_table(SESSION_COLUMNS, ([one[name] for name in SESSION_COLUMNS] for one in found))


def _show_link(name: str, token: str, as_json: bool) -> None:
    link = f"{current_service().settings.public_url}/password/{token}"
    show({"name": name, "link": link}, as_json, link)


@commands.command(name="actions")
@click.option("--actor", help="Only theirs, like key:billing or shell:root.")
@click.option("--subject", help="Only what was done to it, like batch:7.")
@LIMIT
@CURSOR
@as_json_option
def show_actions(
    actor: str | None, subject: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Show what persons and keys changed, newest first."""
    print_page(list_actions(current_database(), actor, subject, cursor, limit), as_json, ACTION_COLUMNS)
