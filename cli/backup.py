"""`sms backup`: a copy of the database while everything runs, or a drill with one that is there."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from flask.cli import AppGroup

from cli.context import current_database
from cli.output import as_json_option, show
from messaging.operations.backup import back_up, verify

commands = AppGroup()


@commands.command(name="backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--verify", "is_drill", is_flag=True, help="Check FILE, which is there already; write no new one."
)
@as_json_option
def backup(file: Path, is_drill: bool, as_json: bool) -> None:
    """Copy the database to FILE while everything runs, and check the copy; exit code 1 where somebody must act."""
    with _tidy_when_stopped():
        found = verify(current_database(), file) if is_drill else back_up(current_database(), file)
    show(found.as_json(), as_json, str(found))
    sys.exit(0 if found.ok else 1)


@contextmanager
def _tidy_when_stopped() -> Iterator[None]:
    """SIGTERM ends a program at once, and a half-written file or a database of the drill would be left."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
