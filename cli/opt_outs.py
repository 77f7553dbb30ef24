"""`sms opt-outs …`: who may not be texted, and since when."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service, read_phone_argument
from cli.imports import progress_of, show_imported
from cli.output import CURSOR, LIMIT, as_json_option, print_csv, print_json, print_page, show
from messaging.consent import csv_import
from messaging.consent import views as opt_out_views
from messaging.consent.csv_export import COLUMNS, cells_of, with_evidence

OPERATOR = "operator"
commands = AppGroup()


@commands.group(name="opt-outs")
def opt_outs_group() -> None:
    """Who may not be texted, and since when."""


@opt_outs_group.command(name="list")
@click.option("--phone", help="Only this number.")
@LIMIT
@CURSOR
@as_json_option
def list_opt_outs(phone: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Show the ledger, newest first."""
    wanted = None if phone is None else read_phone_argument(phone)
    filters = opt_out_views.LedgerFilters(phone=wanted)
    found = opt_out_views.list_entries(current_database(), filters, cursor, limit)
    if not as_json:
        found["items"] = [with_evidence(entry) for entry in found["items"]]
    print_page(found, as_json, COLUMNS)


@opt_outs_group.command(name="add")
@click.argument("phone")
@click.option("--sender-id", help="Only texts from this sender; otherwise all that we send.")
@click.option("--detail", help="How it is known, for the ledger.")
@as_json_option
def add_opt_out(phone: str, sender_id: str | None, detail: str | None, as_json: bool) -> None:
    """Stop texting PHONE."""
    database, wanted = current_database(), read_phone_argument(phone)
    answer = opt_out_views.stop(database, wanted, sender_id, detail, OPERATOR)
    sentence = "is not texted any more" if answer["added"] else "was not texted before either"
    show(answer, as_json, f"{wanted} {sentence}.")


@opt_outs_group.command(name="lift")
@click.argument("phone")
@click.option("--sender-id", help="Only the block for this sender.")
@click.option("--detail", help="Why, for the ledger.")
@as_json_option
def lift_opt_out(phone: str, sender_id: str | None, detail: str | None, as_json: bool) -> None:
    """Text PHONE again. What the network blocks stays blocked there."""
    database, wanted = current_database(), read_phone_argument(phone)
    answer = opt_out_views.lift(database, wanted, sender_id, detail, OPERATOR)
    elsewhere = answer["elsewhere"]
    advice = f" {elsewhere['advice']}" if elsewhere else ""
    show(answer, as_json, f"{wanted} may be texted again.{advice}")


@opt_outs_group.command(name="export")
@as_json_option
def export_opt_outs(as_json: bool) -> None:
    """Print the whole ledger as CSV, newest first, each entry with its evidence in the journal."""
    entries = opt_out_views.all_entries(current_database())
    if as_json:
        print_json(list(entries))
    else:
        print_csv(COLUMNS, map(cells_of, entries))


@opt_outs_group.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
def import_opt_outs(file: Path, as_json: bool) -> None:
    """Stop texting everyone in FILE, CSV or .xlsx with the column phone and, where wanted, sender_id and reason.

    The export comes back as it was: only entries in force stop anybody.
    """
    service = current_service()
    with file.open("rb") as raw, progress_of(file, as_json) as bar:
        done = csv_import.import_opt_outs(
            service.database, raw, service.settings.default_region, lambda: bar.update(raw.tell() - bar.pos)
        )
    show_imported(done, as_json)
