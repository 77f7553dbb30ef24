"""How the commands speak: a table or a sentence for a person, JSON for a program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from cli.context import time_zone
from utils.csv_files import BYTE_ORDER_MARK
from utils.local_times import show_local_time
from utils.spreadsheets import harmless_cell

# A URL or a sentence cut into a pipe's eighty columns could not be copied or searched.
WIDE_COLUMNS = 1000

as_json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)


LIMIT: Callable[[Any], Any] = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True
)
CURSOR: Callable[[Any], Any] = click.option("--cursor", help="`next_cursor` of the page before.")


def show(answer: object, as_json: bool, sentence: str) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(sentence)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    # Not at the top: it takes a tenth of a second, and JSON needs none of it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    zone = time_zone()
    table = Table(*names, box=None, show_header=any(names), pad_edge=False)
    for row in rows:
        # Text: what people wrote must not be read as markup.
        table.add_row(*(Text(show_local_time(in_words(cell), zone)) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDE_COLUMNS).print(table)


def print_page(found: dict[str, Any], as_json: bool, names: Sequence[str]) -> None:
    """A page of a list. For people the chosen columns, and how to see more."""
    if as_json:
        print_json(found)
        return
    print_table(names, ([item.get(name) for name in names] for item in found["items"]))
    if found["next_cursor"]:
        click.echo(f"More: --cursor {found['next_cursor']}", err=True)


def show_warnings(found: dict[str, Any]) -> None:
    """What is sent as asked for, but may not have been meant so. On standard error: the answer can be piped."""
    # An answer to an earlier call may be older than warnings.
    total = sum(found.get("warning_counts", {}).values())
    if not total:
        return
    click.echo(f"{total} to look at:", err=True)
    for one in found["warnings"]:
        places = [f"line {one['line']}"] if "line" in one else []
        where = ", ".join([*places, *([one["to"]] if "to" in one else [])])
        click.echo(f"  {where}: {one['message']}" if where else f"  {one['message']}", err=True)
    if total > len(found["warnings"]):
        click.echo(f"  … and {total - len(found['warnings'])} more", err=True)


def waiting_sentence(batch: dict[str, Any]) -> str:
    """What of a batch does not move, why, and until when; empty where all of it does."""
    return "".join(f" {_waits(one)}." for one in batch.get("waiting", ()))


def _waits(one: dict[str, Any]) -> str:
    why = f" ({one['reason']})" if one["reason"] else ""
    if one["pause"] is not None:
        return f"{one['count']} wait because sending is paused{why}, see sms resume"
    if one["until"] is None:
        return f"{one['count']} wait for a person, see sms held{why}"
    return f"{one['count']} wait until {show_local_time(one['until'], time_zone())}{why}"


def print_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    sys.stdout.write(BYTE_ORDER_MARK)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([harmless_cell(in_words(value)) for value in row] for row in rows)


def in_words(value: object) -> str:
    if isinstance(value, dict) and not {"amount", "currency"} >= set(value):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    if isinstance(value, dict):
        return " ".join(str(part) for part in reversed(value.values()) if part is not None)
    return "" if value is None else str(value)
