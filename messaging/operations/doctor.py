"""What an operator asks first when something seems wrong: each part of the set-up, looked at once."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from messaging.callbacks import received
from messaging.consent import ledger
from messaging.costs import daily_limits
from messaging.forwarding.outbox import FAILED
from messaging.forwarding.views import OFF, ON, PAUSED, state_of
from messaging.operations import audit, health
from messaging.operations.account_check import SIMULATOR
from messaging.operations.health import queue_problem, require_migrated
from messaging.operations.held import MOST_COUNTED, count_held
from messaging.operations.metrics import Gauges
from messaging.operations.recovery_views import latest_recoveries, sentence_of, unwritable
from messaging.operations.store_of_test_keys import StoreOfTestKeys
from messaging.sending.witness import find_problem
from messaging.service import Service
from messaging.storage import counters, tables
from messaging.storage.clocks import has_boot_clock, last_step, wall_clock
from messaging.storage.task_queue import first_line
from utils.errors import ProviderError, ServiceError
from utils.json_shapes import rfc3339
from utils.private_files import find_open
from utils.sender_ids import promotional_senders, sender_key
from utils.setting_types import is_loopback, sqlite_path
from utils.settings import Settings

BALANCE_TIMEOUT_SECONDS = 10.0
COMMITS_TRIED = 10
MOST_NAMED = 20
# A commit this slow (a network disk, a far database) makes callbacks wait longer than AT may.
SLOW_COMMIT_SECONDS = 0.25
STEP_SHOWN = timedelta(days=1)
NO_BOOT_CLOCK = "no boot clock can be read here, so waits and leases follow the clock when it is set"


@dataclass(frozen=True, slots=True)
class Finding:
    """`is_well` False needs somebody to act; `says` tells what was found, or what to do.

    `is_unknown`: it could not be asked now, so it is not known to be well; asking again may tell.
    """

    part: str
    is_well: bool
    says: str
    is_unknown: bool = False


_UNREAD = Finding(
    "records", False, "what stands in the database could not be looked at: mend that first", is_unknown=True
)


def examine(service: Service) -> Iterator[Finding]:
    yield _settings(service.settings)
    yield from _addresses(service.settings)
    yield _replies(service.settings)
    yield from _way_out(service.settings)
    yield _files(service.settings)
    try:
        require_migrated(service.database)
        yield from _records(service)
    except ServiceError as error:
        yield Finding("database", False, error.message)
        yield _UNREAD
    except SQLAlchemyError as error:
        yield Finding("database", False, str(error).splitlines()[0])
        yield _UNREAD
    problem = queue_problem(service.settings.queue_url)
    yield Finding("queue", problem is None, f"the task queue {problem or 'answers'}")
    yield _balance(service)
    yield from _test_keys(service)


def _test_keys(service: Service) -> Iterator[Finding]:
    """Nothing where nobody has made one."""
    test_keys = StoreOfTestKeys(service)
    try:
        are_used = test_keys.are_used()
    except (ServiceError, SQLAlchemyError):
        says = "whether there are any stands in the database, which cannot be used"
        yield Finding("test keys", False, says, is_unknown=True)
        return
    try:
        if are_used:
            with test_keys.open().database.read() as connection:
                connection.execute(select(tables.messages.c.id).limit(1))
            yield Finding("test keys", True, "their texts go to a database of their own, never to AT")
    except ServiceError as error:
        yield Finding("test keys", False, error.message)
    except SQLAlchemyError as error:
        yield Finding("test keys", False, f"their database cannot be used: {first_line(error)}")


def _settings(settings: Settings) -> Finding:
    if settings.is_offline:
        return Finding("settings", True, f"offline: texts go to the simulator at {settings.provider_host}")
    account = f"account {settings.provider_username} at {settings.provider_host}"
    if settings.at_sender_id is None:
        account += f"; bulk texts leave as {settings.effective_sender_id}: set AT_SENDER_ID to your own"
    return Finding("settings", True, account)


def _addresses(settings: Settings) -> Iterator[Finding]:
    is_reachable = settings.is_offline or not is_loopback(urlsplit(settings.public_url).hostname or "")
    for name, url in settings.callback_urls.items():
        advice = "" if is_reachable else " (only this machine can reach it: set PUBLIC_URL)"
        yield Finding(f"callback {name}", is_reachable, url + advice)


def _replies(settings: Settings) -> Finding:
    if settings.reply_notice:
        return Finding("replies", True, settings.reply_notice)
    says = "what nothing else answers gets REPLY_TEMPLATE" if settings.reply_template else "off"
    return Finding("replies", True, says)


def _way_out(settings: Settings) -> Iterator[Finding]:
    """Whether who gets a promotional text can end such texts as it says. Nothing where nobody sends any."""
    promotional = promotional_senders(settings.sender_classes)
    if not promotional:
        return
    others = sorted(promotional - {sender_key(settings.at_shortcode)})
    if not settings.way_out:
        yield Finding("way out", False, "promotional texts do not say how to end them: set WAY_OUT_TEXT")
    elif settings.stop_scope == "sender" and others:
        says = f"a STOP to your number does not end texts from {', '.join(others)}: set STOP_SCOPE=all"
        yield Finding("way out", False, says)
    else:
        yield Finding("way out", True, f"promotional texts say {settings.way_out!r}")


def _files(settings: Settings) -> Finding:
    paths = [path for url in (settings.database_url, settings.queue_url) if (path := sqlite_path(url))]
    found = sorted({str(one) for path in paths for one in find_open(path)})
    if found:
        return Finding("files", False, f"open to other users of this machine (chmod go=): {', '.join(found)}")
    return Finding("files", True, "no other user of this machine may open them")


def _records(service: Service) -> Iterator[Finding]:
    parts: tuple[Callable[[Service], Finding], ...] = (
        _database,
        _identity,
        _worker,
        _witness,
        _recovery,
        _clock,
        _pauses,
        _waiting,
        _held,
        _brakes,
        _reports,
        _opt_outs,
        _rate_limit,
        _forwarding,
    )
    for part in parts:
        yield part(service)


def _database(service: Service) -> Finding:
    kind = "SQLite" if service.database.is_sqlite else "PostgreSQL"
    return Finding("database", True, f"{kind}, migrated")


def _identity(service: Service) -> Finding:
    """Only looks: the first start of the service records which account the database belongs to."""
    with service.database.read() as connection:
        recorded = connection.execute(select(tables.service_identity.c.account)).scalar_one_or_none()
    settings = service.settings
    account = SIMULATOR[0] if settings.is_offline else settings.provider_username
    if recorded is None:
        return Finding(
            "identity", True, f"this database is new; the first start records that it belongs to {account}"
        )
    return Finding(
        "identity", recorded == account, f"this database belongs to {recorded}; the settings name {account}"
    )


def _worker(service: Service) -> Finding:
    if health.is_worker_alive(service.database):
        return Finding("worker", True, "seen within the last half minute")
    return Finding(
        "worker", False, "none seen lately, so nothing leaves: start one (make run, python -m worker)"
    )


def _witness(service: Service) -> Finding:
    """This machine's by a try, the others' by what they said lately."""
    folder = Path(service.settings.witness_dir)
    problem = find_problem(folder)
    if problem is not None:
        return Finding("witness", False, f"{folder} cannot be written ({problem}), so nothing is sent")
    with service.database.read() as connection:
        others = unwritable(connection)
    if others:
        said = ", ".join(f"{name} ({why})" for name, why in sorted(others.items()))
        return Finding("witness", False, f"cannot be written, so nothing is sent there: {said}")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        return Finding("witness", False, f"open to other users of this machine (chmod go=): {folder}")
    return Finding(
        "witness", True, f"what leaves is noted in {folder}, for {service.settings.witness_days} days"
    )


def _recovery(service: Service) -> Finding:
    with service.database.read() as connection:
        found = latest_recoveries(connection, 1)
        now = wall_clock(connection)
    if not found:
        return Finding("recovery", True, "the database never went backwards")
    (last,) = found
    is_old = last.closed_at is not None and now - last.closed_at > STEP_SHOWN
    return Finding("recovery", is_old, sentence_of(last))


def _clock(service: Service) -> Finding:
    """Durations do not mind that the clock was set, dates do; and what sets a clock by hours may do so again."""
    database = service.database
    with database.write() as connection:
        database.clocks.look(connection)
        step = last_step(connection)
        is_old = step is not None and abs(wall_clock(connection) - step.at) > STEP_SHOWN
    whose = "this machine's clock" if database.is_sqlite else "the database's clock"
    if step is None:
        says = f"{whose} was never set by more than a minute"
        return Finding("clock", True, says if has_boot_clock() else NO_BOOT_CLOCK)
    seconds = round(step.by.total_seconds())
    says = f"{whose} was set {'forward' if seconds > 0 else 'back'} by {abs(seconds)} s at {rfc3339(step.at)}"
    return Finding("clock", is_old, says if is_old else f"{says}: look at what keeps its time (NTP)")


def _pauses(service: Service) -> Finding:
    with service.database.read() as connection:
        rows = connection.execute(
            select(tables.pauses.c.name, tables.pauses.c.reason).order_by(tables.pauses.c.name)
        ).all()
    says = ", ".join(f"{row.name} ({row.reason})" for row in rows)
    return Finding("pauses", not rows, says or "none")


def _waiting(service: Service) -> Finding:
    told = (
        "sms_queue_depth",
        "sms_unknown",
        "sms_parked_reports",
        "sms_quarantined_callbacks",
        "sms_unapplied_callbacks",
    )
    numbers = {
        gauge.name: gauge.values[""] for gauge in Gauges(service.database).read() if gauge.name in told
    }
    words = [f"{numbers[name]:.0f} {name.removeprefix('sms_').replace('_', ' ')}" for name in told]
    return Finding("waiting", numbers["sms_unapplied_callbacks"] == 0, ", ".join(words))


def _held(service: Service) -> Finding:
    with service.database.read() as connection:
        counts = count_held(connection)
    if not any(counts.values()):
        return Finding("held", True, "nothing waits for a person")
    more = {kind: " or more" if number == MOST_COUNTED else "" for kind, number in counts.items()}
    words = ", ".join(f"{number}{more[kind]} of kind {kind}" for kind, number in counts.items() if number)
    return Finding("held", False, f"{words}: see sms held list, then release or cancel")


def _brakes(service: Service) -> Finding:
    """Which are on, what the limits have counted today, and what they cannot count."""
    settings = service.settings
    with service.database.read() as connection:
        limits = daily_limits.all_limits(connection, settings)
        spent = daily_limits.spent_today(connection, wall_clock(connection), settings.time_zone)
        currencies = set(connection.execute(select(tables.prices.c.currency).distinct()).scalars())
    words = [f"{spent[one.scope, one.currency] / 1_000_000:,.2f} of {one} is spent" for one in limits]
    if settings.approval_above is not None:
        words.append(f"a batch above {settings.approval_above} needs approval")
    if settings.unusual_factor is not None:
        words.append(f"a batch above {settings.unusual_factor:g} times the usual day is paused")
    strange = sorted({one.currency for one in limits} - currencies)
    if strange:
        why = f"no price in {', '.join(strange)} is known"
        words.append(f"a limit cannot count before an answer has told a price: {why}")
    return Finding("brakes", not (strange and currencies), "; ".join(words) or "none is set")


def _reports(service: Service) -> Finding:
    with service.database.read() as connection:
        waited = received.oldest_wait(connection)
    if waited is None:
        return Finding("reports", True, "each that is stored is applied")
    says = f"the oldest that is not applied has waited for {waited.total_seconds():.0f} s"
    is_late = waited > audit.REPORT_OVERDUE
    return Finding("reports", not is_late, says + ("; a worker applies them: is one running?" * is_late))


def _opt_outs(service: Service) -> Finding:
    with service.database.read() as connection:
        found = ledger.without_number(connection, MOST_NAMED)
    if not found:
        return Finding("opt-outs", True, "each has a phone number")
    entries = ", ".join(str(entry_id) for entry_id, _ in found)
    return Finding("opt-outs", False, f"no phone number could be read in these: {entries} (see sms audit)")


def _rate_limit(service: Service) -> Finding:
    """How fast texts may leave, and what it costs to store the reports that they cause."""
    seconds = _seconds_per_commit(service)
    settings = service.settings
    return Finding(
        "rate limit",
        seconds < SLOW_COMMIT_SECONDS,
        f"at most {settings.at_max_messages_per_second:g} texts in {settings.at_max_requests_per_second:g}"
        f" POSTs a second; a commit takes {seconds * 1000:.1f} ms here, and the reports that come back share"
        " commits",
    )


def _forwarding(service: Service) -> Finding:
    with service.database.read() as connection:
        state = state_of(service.settings, connection)
    if state["state"] == OFF:
        return Finding("forwarding", True, "off: FORWARD_URL is not set")
    words = ", ".join(f"{number} {name}" for name, number in state["counts"].items())
    says = f"{state['state']} to {state['receiver']}: {words}"
    if state["reason"]:
        says += f"; {state['reason']}"
    if state["state"] == PAUSED:
        says += " (when it is mended: sms forwarding resume)"
    return Finding("forwarding", state["state"] == ON and not state["counts"][FAILED], says)


def _seconds_per_commit(service: Service) -> float:
    began = time.monotonic()
    for _ in range(COMMITS_TRIED):
        with service.database.write() as connection:
            # A commit without a change would cost nothing and show nothing.
            counters.add(connection, "doctor_commits", 1)
    return (time.monotonic() - began) / COMMITS_TRIED


def _balance(service: Service) -> Finding:
    """AT's answer to a question that sends nothing: shows that host, account and key fit."""
    try:
        balance = service.provider.fetch_balance(deadline_seconds=BALANCE_TIMEOUT_SECONDS)
    except ProviderError as error:
        return Finding("provider", False, error.message, is_unknown=error.retryable)
    return Finding("provider", balance.amount > 0, f"answers; balance {balance}")
