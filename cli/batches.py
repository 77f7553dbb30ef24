"""`sms bulk` and `sms quote`: a file of recipients, with a bar that says how fast and how long."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
from flask.cli import AppGroup
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from cli.bulk_preview import lines_of, require_consent
from cli.context import current_service, read_time, require_own_database, time_zone
from cli.output import (
    as_json_option,
    in_words,
    print_json,
    print_table,
    show,
    show_warnings,
    waiting_sentence,
)
from messaging.batches import control, importer, local_numbers, progress, upload, upload_store
from messaging.batches import quote as quotes
from messaging.messages.accept import ON_UNKNOWN
from messaging.service import Service
from utils.errors import AcceptanceUnknown, Conflict, StorageUnavailable
from utils.local_times import show_local_time

LOOK_SECONDS = 0.5
SHOWN_SAMPLES = 3
PHONE_COLUMN = click.option("--phone-column", help="The column of the numbers, where several may be meant.")
SHEET = click.option("--sheet", help="Of an Excel file; its first one if absent.")
REGION = click.option(
    "--region",
    "default_region",
    help="Two letters: the country of numbers without a country code, instead of DEFAULT_REGION.",
)
CSV_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

commands = AppGroup()


@commands.command()
@click.argument("file", metavar="FILE", type=CSV_FILE)
@click.option(
    "--text",
    help="May hold {{column}} and {{column|default}}; without it the file's column `text` or `message` is sent.",
)
@click.option("--sender-id", help="Instead of AT_SENDER_ID.")
@click.option("--name", help="For people.")
@click.option(
    "--send-at",
    metavar="TIME",
    help="Not before this time, like 2026-11-24T08:00 (TIME_ZONE) or 2026-11-24T08:00Z.",
)
@click.option("--expires-at", metavar="TIME", help="Not after this time.")
@PHONE_COLUMN
@SHEET
@REGION
@click.option("--max-cost", metavar="MONEY", help="Pause before passing it, like 'KES 5000'.")
@click.option("--on-unknown", type=click.Choice(ON_UNKNOWN), default="hold", show_default=True)
@click.option("--idempotency-key", help="The same key and file within a day is one batch.")
@click.option(
    "--wait", is_flag=True, help="Stay until every message has been sent, or waits for a clock or a person."
)
@click.option(
    "--max-refused",
    type=click.FloatRange(0, 1),
    default=quotes.MAX_REFUSED,
    show_default=True,
    help="Queue nothing where a larger share of the rows would be refused.",
)
@click.option(
    "--again", is_flag=True, help="Send it though the same file and text went out within the last day."
)
@click.option("--yes", is_flag=True, help="Do not ask. Without a terminal nobody is asked either.")
@as_json_option
def bulk(
    file: Path,
    idempotency_key: str | None,
    wait: bool,
    max_refused: float,
    again: bool,
    yes: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Queue a text to every row of FILE, CSV or .xlsx; the worker sends them.

    Shows first what it comes to, and asks. Interrupted or killed while it reads the file, it sends none. The same
    file and text within a day it refuses, unless somebody at the terminal says yes to it, or with --again.
    """
    service = current_service()
    require_own_database(service)
    with file.open("rb") as stream:
        request = _request(stream, fields)
        found = _look_before(service, stream, request, max_refused)
        lines = lines_of(service, found, request.text)
        about = request, stream, idempotency_key
        warning = _sent_before(service, *about)
        is_asked = require_consent(lines + warning, is_agreed=yes, is_silent=as_json)
        # A yes is one to what was shown: somebody else may have sent the file meanwhile.
        may_repeat = again or (is_asked and bool(warning))
        answer = upload.receive(
            service.settings, service.database, *about, is_mine=True, may_repeat=may_repeat
        )
    batch_id = answer.body["id"]
    with _naming(batch_id):
        if not answer.is_replay:
            _import(service, batch_id, as_json)
        if wait:
            _wait(service, batch_id, as_json)
        batch = progress.get_batch(service.database, batch_id)
    show(batch, as_json, _sentence(batch, answer.is_replay) + waiting_sentence(batch))
    if not as_json:
        show_warnings(batch)
    sys.exit(1 if _has_failed(batch, wait) or not batch["total"] else 0)


def _has_failed(batch: dict[str, Any], wait: bool) -> bool:
    """Whoever waits for the end has not got it from a batch that is held, nor where sending is paused."""
    is_held = batch["status"] == "paused" or any(one["pause"] for one in batch["waiting"])
    return batch["status"] == "cancelled" or (wait and is_held)


def _sent_before(
    service: Service, request: upload.BatchRequest, stream: BinaryIO, idempotency_key: str | None
) -> list[str]:
    # The same call again is answered as the first one was, and sends nothing.
    if idempotency_key and upload.is_answered(service.database, request, stream, idempotency_key):
        return []
    earlier = upload.sent_before(service.database, request.text, stream, request.sheet)
    if earlier is None:
        return []
    name, at = (
        earlier["name"] or f"batch {earlier['id']}",
        show_local_time(earlier["created_at"], time_zone()),
    )
    return [f"The same file was sent with this text at {at} ({name}): everybody in it would get it twice"]


def _look_before(
    service: Service, stream: BinaryIO, request: upload.BatchRequest, max_refused: float
) -> dict[str, Any]:
    """The quote of what is to be sent. Raises InvalidInput where too much of it would be refused.

    A time or a limit that cannot be is told before anybody is asked.
    """
    upload.validate(service.database, request)
    found = quotes.quote_file(
        service.settings,
        service.database,
        stream,
        request.text,
        request.sender_id,
        request.phone_column,
        request.sheet,
        request.default_region,
    )
    quotes.require_few_refused(found, max_refused)
    stream.seek(0)
    return found


@contextmanager
def _naming(batch_id: int) -> Iterator[None]:
    """A database that goes away is no reason to type the command again: the batch may be sent."""
    try:
        yield
    except (SQLAlchemyError, StorageUnavailable, AcceptanceUnknown) as error:
        raise AcceptanceUnknown(
            f"The database cannot be used now; batch {batch_id} may be sent all the same:"
            f" `sms batch show {batch_id}` tells, before anything is repeated"
        ) from error


def _wait(service: Service, batch_id: int, is_silent: bool) -> None:
    try:
        _watch(service, batch_id, is_silent)
    except KeyboardInterrupt:
        raise Conflict(
            f"Interrupted: batch {batch_id} goes on by itself; `sms batch cancel {batch_id}` ends it"
        ) from None


@commands.command()
@click.argument("file", metavar="[FILE]", type=CSV_FILE, required=False)
@click.option("--to", multiple=True, help="A phone number, instead of a file; may be repeated.")
@click.option("--text", help="May hold {{column}}; without it the file's column `text` or `message`.")
@click.option("--sender-id", help="Instead of AT_SENDER_ID.")
@PHONE_COLUMN
@SHEET
@REGION
@as_json_option
def quote(
    file: Path | None,
    to: Sequence[str],
    text: str | None,
    sender_id: str | None,
    phone_column: str | None,
    sheet: str | None,
    default_region: str | None,
    as_json: bool,
) -> None:
    """Say what a send would come to: recipients, parts, cost. Sends nothing."""
    if (file is None) == (not to):
        raise click.UsageError("Name a file, or numbers with --to.")
    service = current_service()
    if file is None:
        if text is None:
            raise click.UsageError("Give the --text.")
        found = quotes.quote_messages(service.settings, service.database, to, text, sender_id, default_region)
    else:
        with file.open("rb") as stream:
            template = _template(stream, text, phone_column, sheet)
            about = (template, sender_id, phone_column, sheet, default_region)
            found = quotes.quote_file(service.settings, service.database, stream, *about)
    print_json(found) if as_json else _show_quote(found)


def _request(stream: BinaryIO, fields: dict[str, Any]) -> upload.BatchRequest:
    times = {
        name: None if fields[name] is None else read_time(fields[name]) for name in ("send_at", "expires_at")
    }
    template = _template(stream, fields["text"], fields["phone_column"], fields["sheet"])
    return upload.BatchRequest(**fields | times | {"text": template})


def _template(stream: BinaryIO, text: str | None, phone_column: str | None, sheet: str | None) -> str:
    template = text if text is not None else upload.default_template(stream, phone_column, sheet)
    if template is None:
        raise click.UsageError("Give the --text: the file has no column `text` or `message`.")
    return template


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether somebody has pressed Ctrl-C, closed the terminal or sent SIGTERM.

    Asked between two transactions: a KeyboardInterrupt within one can leave it open, and SQLite's one lock taken.
    """
    asked: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(name, signal.signal(name, lambda number, _frame: asked.append(number))) for name in names]
    try:
        yield lambda: bool(asked)
    finally:
        for name, handler in before:
            signal.signal(name, handler)


def _import(service: Service, batch_id: int, is_silent: bool) -> None:
    with _progress(is_silent) as bar, _interrupts() as is_interrupted:
        task = bar.add_task("reading", total=upload_store.size(service.database, batch_id), rate="")
        started_at = time.monotonic()

        def report(done: importer.ImportProgress) -> None:
            rate = done.rows / max(time.monotonic() - started_at, 0.001)
            bar.update(task, completed=done.bytes_read, rate=f"{done.rows:,} rows, {rate:,.0f}/s")

        importer.import_batch(service.database, service.settings, batch_id, report, is_interrupted)
        if is_interrupted():
            ended = control.cancel(service.database, batch_id)
            raise Conflict(f"Interrupted: batch {batch_id} is cancelled; {ended['message']}")


def _watch(service: Service, batch_id: int, is_silent: bool) -> None:
    """Until it is over, or cannot go on by itself: a pause is left to a person."""
    with _progress(is_silent) as bar:
        task = bar.add_task("sending", total=None, rate="")
        for speed in progress.watch(service.database, batch_id):
            rate = "" if speed.per_second is None else f"{speed.per_second:,.0f}/s"
            bar.update(task, completed=speed.settled, total=speed.total, description=speed.status, rate=rate)
            if speed.status == "paused" or speed.is_waiting:
                return
            if not speed.is_over:
                time.sleep(LOOK_SECONDS)


def _progress(is_silent: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=is_silent,
    )


def _sentence(batch: dict[str, Any], is_replay: bool) -> str:
    known = " (it was there already)" if is_replay else ""
    reason = f", {batch['reason']}" if batch.get("reason") else ""
    when = f" for {show_local_time(batch['send_at'], time_zone())}" if batch["status"] == "scheduled" else ""
    return (
        f"Batch {batch['id']}{known}: {batch['total']} messages, {batch['refused']} rows refused,"
        f" {batch['duplicates']} duplicates; {batch['status']}{when}{reason}."
    )


def _show_quote(found: dict[str, Any]) -> None:
    lists = (
        "refused",
        "duplicate_rows",
        "spills",
        "encodings",
        "estimated_costs",
        "samples",
        "with_region",
        "warnings",
        "warning_counts",
    )
    rows = [(name, value) for name, value in found.items() if name not in lists]
    print_table(("", ""), [*rows, *found["encodings"].items()])
    found = found | {"samples": found["samples"][:SHOWN_SAMPLES]}
    for name, columns in (
        ("samples", ("to", "text")),
        ("spills", ("to", "parts", "character", "suggestion")),
        ("refused", ("line", "to", "code", "message")),
    ):
        if found[name]:
            click.echo()
            print_table(columns, ([in_words(one[column]) for column in columns] for one in found[name]))
    if hint := local_numbers.sentence(found["with_region"]):
        click.echo(f"{hint}.", err=True)
    show_warnings(found)
