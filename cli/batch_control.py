"""`sms batch …`: how far a batch is, holding it, ending it, and what became of it as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from flask.cli import AppGroup

from cli.context import current_database
from cli.output import (
    CURSOR,
    LIMIT,
    as_json_option,
    in_words,
    print_json,
    print_page,
    print_table,
    show,
    show_warnings,
    waiting_sentence,
)
from messaging.batch_statuses import FINISHED
from messaging.batches import bill as bills
from messaging.batches import control, exports, progress

LISTED = ("id", "created_at", "name", "status", "reason", "total", "refused", "progress", "cost", "counts")
REASON = ("status", "reason", "messages", "explanation", "remedy")
SHOWN_REASONS = 3
BATCH_ID = click.argument("batch_id", metavar="ID", type=int)

commands = AppGroup()


@commands.group()
def batch() -> None:
    """Look at a batch, hold it, end it."""


@batch.command("list")
@LIMIT
@CURSOR
@as_json_option
def list_all(limit: int, cursor: str | None, as_json: bool) -> None:
    """Show batches, newest first."""
    found = progress.list_batches(current_database(), cursor, limit)
    if not as_json:
        found["items"] = [one | {"counts": in_words(one["counts"])} for one in found["items"]]
    print_page(found, as_json, LISTED)


@batch.command("show")
@BATCH_ID
@as_json_option
def show_batch(batch_id: int, as_json: bool) -> None:
    """Show how far the batch ID is, and of a finished one the most frequent reasons why texts did not arrive."""
    found = progress.get_batch(current_database(), batch_id)
    _show(found, as_json)
    if not as_json and found["status"] == FINISHED:
        _show_first_reasons(batch_id)


@batch.command("reasons")
@BATCH_ID
@as_json_option
def show_reasons(batch_id: int, as_json: bool) -> None:
    """Show why messages of the batch ID did not arrive or are not known to, the most frequent reason first."""
    found = progress.reasons_of(current_database(), batch_id)
    if as_json:
        print_json({"items": found})
    else:
        _print_reasons(found)


@batch.command()
@BATCH_ID
@as_json_option
def pause(batch_id: int, as_json: bool) -> None:
    """Hold the batch ID: no POST of it begins any more."""
    held = control.pause(current_database(), batch_id)
    show(held, as_json, f"Batch {batch_id} is paused.")


@batch.command()
@BATCH_ID
@as_json_option
def resume(batch_id: int, as_json: bool) -> None:
    """Let the paused batch ID go on."""
    going = control.resume(current_database(), batch_id)
    show(going, as_json, f"Batch {batch_id} is {going['status']}.")


@batch.command()
@BATCH_ID
@as_json_option
def cancel(batch_id: int, as_json: bool) -> None:
    """End the batch ID. What Africa's Talking already has is not undone."""
    ended = control.cancel(current_database(), batch_id)
    show(ended, as_json, f"Batch {batch_id} is cancelled: {ended['message']}.")


@batch.command()
@BATCH_ID
@as_json_option
def bill(batch_id: int, as_json: bool) -> None:
    """Show our estimate of parts and costs beside Africa's Talking's bill."""
    found = bills.bill(current_database(), batch_id)
    if as_json:
        print_json(found)
        return
    for name in ("estimated_costs", "billed_costs"):
        found[name] = ", ".join(map(in_words, found[name]))
    _print(found | {"examples": None})


@batch.command()
@BATCH_ID
def refused(batch_id: int) -> None:
    """Print the rows that were not taken, as CSV: line, value, code, reason, and the file's own columns."""
    _print_csv(exports.refused_csv(current_database(), batch_id))


@batch.command()
@BATCH_ID
def duplicates(batch_id: int) -> None:
    """Print the rows whose number stood there before with the same text, as CSV."""
    _print_csv(exports.duplicates_csv(current_database(), batch_id))


@batch.command()
@BATCH_ID
def messages(batch_id: int) -> None:
    """Print all messages of the batch ID, as CSV."""
    _print_csv(exports.messages_csv(current_database(), batch_id))


@batch.command()
@BATCH_ID
def undelivered(batch_id: int) -> None:
    """Print the messages of the batch ID that are settled and not known to have arrived, as CSV."""
    _print_csv(exports.undelivered_csv(current_database(), batch_id))


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    lists = dict.fromkeys(("counts", "costs", "warnings", "warning_counts", "waiting"))
    _print(found | lists | found["counts"])
    if found.get("waiting"):
        click.echo(waiting_sentence(found).strip())
    show_warnings(found)


def _show_first_reasons(batch_id: int) -> None:
    found = progress.reasons_of(current_database(), batch_id)
    if found:
        click.echo()
        _print_reasons(found[:SHOWN_REASONS])
    if len(found) > SHOWN_REASONS:
        click.echo(f"{len(found) - SHOWN_REASONS} more: sms batch reasons {batch_id}", err=True)


def _print_reasons(found: list[dict[str, Any]]) -> None:
    print_table(REASON, ([one[name] for name in REASON] for one in found))


def _print(found: dict[str, Any]) -> None:
    print_table(("", ""), ((name, value) for name, value in found.items() if value is not None))


def _print_csv(pieces: Iterator[str]) -> None:
    for piece in pieces:
        click.echo(piece, nl=False)
