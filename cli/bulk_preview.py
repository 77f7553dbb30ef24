"""What `sms bulk` shows before anything is queued, and the question it asks where somebody can answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from cli.output import in_words
from messaging.batches import local_numbers
from messaging.batches import quote as quotes
from messaging.service import Service
from utils.errors import Conflict
from utils.local_times import show_duration

NOT_SENT = "Nothing was queued"


def require_consent(lines: Sequence[str], *, is_agreed: bool, is_silent: bool) -> bool:
    """Whether somebody was asked, and said yes. Raises Conflict where the answer is no.

    Without a terminal on standard input, as under cron, nobody could answer: that is a yes. `is_silent`: then nothing
    is shown, for a program reads along.
    """
    asks = not is_agreed and is_terminal()
    if asks or not is_silent:
        for line in lines:
            click.echo(line, err=True)
    if asks and not click.confirm("Send?", default=False, err=True):
        raise Conflict(NOT_SENT)
    return asks


def lines_of(service: Service, found: dict[str, Any], text: str) -> list[str]:
    """`found`: a quote of `text`."""
    going = quotes.effort(service.settings, found, text)
    cost = in_words(found["estimated_cost"]) or "unknown"
    lines = [
        f"{going.texts:,} to send, {found['refused_total']:,} rows refused, {found['duplicates']:,} duplicates,"
        f" {found['opted_out']:,} opted out{_without_consent(found)}",
        f"{found['parts']:,} parts, estimated cost {cost}, {show_duration(going.seconds)} at the least",
    ]
    if found["samples"]:
        first = found["samples"][0]
        lines.append(f"First, to {first['to']}: {first['text']}")
    hint = local_numbers.sentence(found["with_region"])
    return [*lines, f"{hint}."] if hint else lines


def _without_consent(found: dict[str, Any]) -> str:
    return f", {found['no_consent']:,} without consent" if found["no_consent"] else ""


def is_terminal() -> bool:
    return sys.stdin.isatty()
