"""`sms held …`: what waits for a person, released or cancelled."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import click
from flask.cli import AppGroup

from cli.context import current_database
from cli.output import CURSOR, LIMIT, as_json_option, print_json, print_page
from messaging.access.actor import required_name
from messaging.operations import held
from messaging.operations.held import KINDS, Done

NAMES = ("id", "reason", "to", "name", "texts", "messages", "held_at", "expires_at")
WHICH = click.argument("names", metavar="[ID]...", nargs=-1)
ALL = click.option("--all", "is_all", is_flag=True, help="Everything that is held.")
REASON = click.option("--reason", help="With --all: only what is held for this reason.")


commands = AppGroup()


@commands.group(name="held")
def held_group() -> None:
    """What a brake, a restore or the loop breaker holds until a person decides."""


@held_group.command(name="list")
@click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
@LIMIT
@CURSOR
@as_json_option
def list_held(kind: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Show what is held: batches, then replies, then messages, the newest of each first."""
    found = held.list_held(current_database(), kind, cursor, limit)
    if not as_json:
        found["items"] = [one | {"texts": " / ".join(one["texts"])} for one in found["items"]]
    print_page(found, as_json, NAMES)


@held_group.command()
@WHICH
@ALL
@REASON
@as_json_option
def release(names: Sequence[str], is_all: bool, reason: str | None, as_json: bool) -> None:
    """Let each ID (message:12, batch:7, reply:3) go, if nothing else forbids it by now."""
    _require_choice(names, is_all, reason)
    database, by = current_database(), required_name()
    done = held.release_all(database, by, reason) if is_all else held.release_each(database, names, by)
    _tell(done, as_json)


@held_group.command()
@WHICH
@ALL
@REASON
@as_json_option
def cancel(names: Sequence[str], is_all: bool, reason: str | None, as_json: bool) -> None:
    """Never send each ID (message:12, batch:7, reply:3)."""
    _require_choice(names, is_all, reason)
    database, by = current_database(), required_name()
    done = held.cancel_all(database, by, reason) if is_all else held.cancel_each(database, names, by)
    _tell(done, as_json)


def _require_choice(names: Sequence[str], is_all: bool, reason: str | None) -> None:
    if bool(names) == is_all:
        raise click.UsageError("Name what is meant, or everything with --all.")
    if reason is not None and not is_all:
        raise click.UsageError("--reason goes with --all.")


def _tell(done: Iterator[list[Done]], as_json: bool) -> None:
    """The counts, and each that stayed as it was; exit code 1 where one did."""
    counts: Counter[str] = Counter()
    refused: list[Done] = []
    for chunk in done:
        counts.update(one.status for one in chunk if one.status is not None)
        refused += [one for one in chunk if one.error is not None]
    if as_json:
        print_json({"counts": counts, "refused": [one.in_json() for one in refused]})
    else:
        click.echo(", ".join(f"{number} {status}" for status, number in counts.items()) or "Nothing changed.")
        for one in refused:
            click.echo(f"{one.name}: {one.error.message if one.error else ''}", err=True)
    sys.exit(1 if refused else 0)
