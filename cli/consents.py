"""`sms consents …`: who agreed to be texted, and to what words."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service, read_phone_argument, time_zone
from cli.imports import progress_of, show_imported
from cli.output import CURSOR, LIMIT, as_json_option, print_csv, print_json, print_page, show
from messaging.consent import consent_files, consents

OPERATOR = "operator"
NAMES = (
    *("id", "at", "phone", "action", "sender_id", "purpose", "wording_version", "source"),
    *("in_force", "evidence", "wording"),
)
commands = AppGroup()


@commands.group(name="consents")
def consents_group() -> None:
    """Who agreed to be texted, and to what words."""


@consents_group.command(name="list")
@click.option("--phone", help="Only this number.")
@click.option("--in-force", is_flag=True, help="Only what counts now.")
@LIMIT
@CURSOR
@as_json_option
def list_consents(phone: str | None, in_force: bool, limit: int, cursor: str | None, as_json: bool) -> None:
    """Show the ledger, newest first."""
    wanted = None if phone is None else read_phone_argument(phone)
    found = consents.list_consents(current_database(), wanted, in_force=in_force, cursor=cursor, limit=limit)
    print_page(found, as_json, NAMES)


@consents_group.command(name="add")
@click.argument("phone")
@click.option("--sender-id", help="Only texts from this sender; otherwise all that we send.")
@click.option("--purpose", help="What the texts are for.")
@click.option("--wording", help="The words that the person agreed to.")
@click.option("--wording-version", help="Which version of them.")
@click.option("--source", default=OPERATOR, show_default=True, help="Where it was said.")
@click.option("--evidence", help="How it can be shown.")
@as_json_option
def add_consent(
    phone: str,
    sender_id: str | None,
    purpose: str | None,
    wording: str | None,
    wording_version: str | None,
    source: str,
    evidence: str | None,
    as_json: bool,
) -> None:
    """Write down that PHONE agreed to be texted."""
    wanted = read_phone_argument(phone)
    terms = consents.Terms(source, purpose, wording, wording_version, evidence)
    answer = consents.give(current_database(), wanted, sender_id, terms)
    sentence = "agreed to be texted" if answer["added"] else "had agreed to the same before"
    show(answer, as_json, f"{wanted} {sentence}.")


@consents_group.command(name="withdraw")
@click.argument("phone")
@click.option("--sender-id", help="Only the consent for this sender.")
@click.option("--source", default=OPERATOR, show_default=True, help="Where it was said.")
@click.option("--evidence", help="How it can be shown.")
@as_json_option
def withdraw_consent(
    phone: str, sender_id: str | None, source: str, evidence: str | None, as_json: bool
) -> None:
    """Withdraw what PHONE agreed to."""
    wanted = read_phone_argument(phone)
    terms = consents.Terms(source, evidence=evidence)
    answer = consents.withdraw(current_database(), wanted, sender_id, terms)
    show(answer, as_json, f"{wanted}: {answer['withdrawn']} withdrawn.")


@consents_group.command(name="export")
@as_json_option
def export_consents(as_json: bool) -> None:
    """Print the whole ledger as CSV, newest first."""
    entries = consents.all_entries(current_database())
    if as_json:
        print_json(list(entries))
    else:
        print_csv(NAMES, ([entry[name] for name in NAMES] for entry in entries))


@consents_group.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
def import_consents(file: Path, as_json: bool) -> None:
    """Write down that everyone in FILE agreed, CSV or .xlsx.

    The columns: phone and, where wanted, sender_id, purpose, wording, wording_version, source, evidence and at, when
    they agreed. The export comes back as it was: only entries in force count. Who has withdrawn since is refused.
    """
    service = current_service()
    with file.open("rb") as raw, progress_of(file, as_json) as bar:
        done = consent_files.import_consents(
            service.database,
            raw,
            service.settings.default_region,
            time_zone(),
            lambda: bar.update(raw.tell() - bar.pos),
        )
    show_imported(done, as_json)
