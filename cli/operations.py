"""Running the service and looking after it: `sms migrate`, `start`, `resume`, `replay`, `audit`, `doctor` …"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import click
from flask.cli import AppGroup

from cli.context import current_database, current_service, read_time, require_own_database, time_zone
from cli.foreground import run_foreground
from cli.output import as_json_option, print_json, print_table, show
from messaging.callbacks import fetch_inbound
from messaging.callbacks.replay import replay
from messaging.conversations.handlers import require_handlers
from messaging.operations.audit import audit
from messaging.operations.doctor import Finding, examine
from messaging.operations.store_of_test_keys import StoreOfTestKeys
from messaging.sending import pauses
from messaging.storage import migrations
from utils.local_times import show_local_times

commands = AppGroup()


@commands.command()
@as_json_option
def migrate(as_json: bool) -> None:
    """Bring the tables up to date, those of the task queue and of test keys too."""
    # Not at the top: the task engine takes a third of a second to import.
    from messaging.storage.task_queue import make_queue_tables

    service = current_service()
    migrations.migrate(service.database)
    make_queue_tables(service.settings)
    test_keys = StoreOfTestKeys(service)
    if test_keys.are_used():
        test_keys.open()
    show({"migrated": True}, as_json, "The database is up to date.")


@commands.command()
def start() -> None:
    """Run web, worker and, offline, the simulator in the foreground."""
    service = current_service()
    require_own_database(service)
    # Web and worker look too; here a mistake is one line, not one among those of three processes that end.
    require_handlers(service.settings)
    service.database.close()
    sys.exit(run_foreground(service.settings))


@commands.command()
@click.option("--sender-id", help="Only this sender id; otherwise everything.")
@as_json_option
def resume(sender_id: str | None, as_json: bool) -> None:
    """Lift the pause of the account or of a sender id."""
    lifted = pauses.resume_now(current_database(), sender_id)
    show({"resumed": lifted}, as_json, f"Pauses lifted: {lifted}.")


@commands.command(name="replay")
@click.argument("callback_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option(
    "--since",
    metavar="TIME",
    help="Those received at this time or later, like 2026-11-24T08:00 (TIME_ZONE) or 2026-11-24T08:00Z.",
)
@click.option("--unapplied", is_flag=True, help="Only those that could not be applied.")
@as_json_option
def replay_callbacks(callback_ids: Sequence[int], since: str | None, unapplied: bool, as_json: bool) -> None:
    """Apply journaled callbacks again, by ID, since a time, or all that failed. Nothing takes effect twice."""
    if not (callback_ids or since or unapplied):
        raise click.UsageError("Name callback ids, or --since, or --unapplied.")
    service = current_service()
    moment = None if since is None else read_time(since)
    counts = asdict(replay(service.database, service.settings, list(callback_ids) or None, moment, unapplied))
    show(counts, as_json, ", ".join(f"{number} {name}" for name, number in counts.items()) + ".")
    sys.exit(1 if counts["unapplied"] else 0)


@commands.command(name="audit")
@as_json_option
def audit_records(as_json: bool) -> None:
    """Check the records against each other; exit code 1 where they contradict."""
    found = audit(current_database())
    if as_json:
        print_json(found.as_json())
    else:
        print_table(("", ""), found.counts.items())
        rows = [(problem.kind, problem.message_id, problem.detail) for problem in found.problems]
        if rows:
            print_table(("problem", "message", "detail"), rows)
        if found.listed:
            print_table(("to look at", "id", "detail"), (list(one.values()) for one in found.listed))
        click.echo("The records agree." if found.ok else f"Problems: {len(rows)}.")
    sys.exit(0 if found.ok else 1)


@commands.command()
@as_json_option
def doctor(as_json: bool) -> None:
    """Look at every part of the set-up; exit code 1 where somebody must act or a part could not be asked."""
    findings = list(examine(current_service()))
    if as_json:
        print_json([_in_json(one) for one in findings])
    else:
        zone = time_zone()
        says = [show_local_times(one.says, zone) for one in findings]
        words = ("ok" if one.is_well else "?" if one.is_unknown else "ACT" for one in findings)
        print_table(("", "", ""), zip((one.part for one in findings), words, says, strict=True))
    sys.exit(0 if all(one.is_well for one in findings) else 1)


def _in_json(one: Finding) -> dict[str, object]:
    return {"part": one.part, "ok": one.is_well, "unknown": one.is_unknown, "says": one.says}


@commands.command(name="fetch-inbound")
@click.option("--after", "after_id", type=click.IntRange(min=0), help="Start after this id of AT's inbox.")
@as_json_option
def fetch_inbound_texts(after_id: int | None, as_json: bool) -> None:
    """Take in what no callback brought, from Africa's Talking's inbox. Harmless to repeat."""
    service = current_service()
    require_own_database(service)
    done = fetch_inbound.Fetched()
    for done in fetch_inbound.fetch_inbound(service.settings, service.database, service.provider, after_id):
        click.echo(f"{done.read} read, {done.added} added (inbox id {done.last_id})", err=True)
    with service.database.read() as connection:
        unapplied = fetch_inbound.count_unapplied(connection)
    sentence = f"{done.added} added, {done.known} known, {done.unusable} unusable."
    if unapplied:
        sentence += f" {unapplied} could not be applied: sms replay --unapplied."
    show(asdict(done) | {"unapplied": unapplied}, as_json, sentence)
    sys.exit(1 if unapplied or done.unusable else 0)
