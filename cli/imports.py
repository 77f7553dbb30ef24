"""What the commands share that read a file of opt-outs or consents."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cli.output import print_table, show
from messaging.consent.ledger_files import Imported


def progress_of(file: Path, as_json: bool) -> Any:
    """A bar over the bytes of the file, on standard error so that the answer can be piped."""
    return click.progressbar(length=file.stat().st_size, label=file.name, file=sys.stderr, hidden=as_json)


def show_imported(done: Imported, as_json: bool) -> None:
    """Ends the command: with 1 where a row was refused."""
    ended = f" {done.ended} ended," if done.ended else ""
    show(
        asdict(done), as_json, f"{done.added} added, {done.known} known,{ended} {done.refused_count} refused."
    )
    if not as_json:
        print_table(("line", "code", "why"), ([one[name] for name in one] for one in done.refused))
    sys.exit(1 if done.refused_count else 0)
