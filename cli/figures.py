"""`sms stats` and `sms balance`: what was sent, what it cost, and what is left on the account."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from cli.context import current_service, read_time
from cli.output import as_json_option, in_words, print_json, print_table, show
from messaging.operations.stats import BUCKETS, stats

COLUMNS = ("accepted", "delivered", "failed", "expired", "rejected", "no_report", "unknown", "blocked")

commands = AppGroup()


@commands.command(name="stats")
@click.option(
    "--since", metavar="TIME", help="From this time on, like 2026-11-24 (TIME_ZONE); a week by default."
)
@click.option("--until", metavar="TIME", help="Before this time; now by default.")
@click.option("--bucket", type=click.Choice(BUCKETS), default=BUCKETS[0], show_default=True)
@as_json_option
def show_stats(since: str | None, until: str | None, bucket: str, as_json: bool) -> None:
    """Show what became of messages, by the time it happened: counts, costs, reasons, time to delivery."""
    service = current_service()
    found = stats(
        service.database,
        service.settings.time_zone,
        None if since is None else read_time(since),
        None if until is None else read_time(until),
        bucket,
    )
    if as_json:
        print_json(found)
        return
    print_table((bucket, *COLUMNS, "parts", "costs"), (_cells("at", one) for one in found["items"]))
    for title, word in (("networks", "network"), ("senders", "sender_id")):
        click.echo()
        print_table((word, *COLUMNS, "parts", "costs"), (_cells(word, one) for one in found[title]))
    click.echo()
    names = ("status", "reason", "messages", "explanation", "remedy")
    print_table(names, ([one[name] for name in names] for one in found["reasons"]))
    click.echo()
    seconds = found["delivery_seconds"].items()
    print_table(("seconds to delivery", ""), ((name, value) for name, value in seconds if value is not None))


@commands.command()
@as_json_option
def balance(as_json: bool) -> None:
    """Show what is left on the account at Africa's Talking."""
    found = current_service().balance.read()
    show(found, as_json, in_words(found["balance"]))


def _cells(word: str, one: dict[str, Any]) -> list[object]:
    costs = ", ".join(map(in_words, one["costs"]))
    return [one[word], *(one["counts"].get(name) for name in COLUMNS), one["parts"] or None, costs]
