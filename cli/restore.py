"""`sms restore`: puts a backup in the place of the database, while everything is stopped."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from cli.context import current_service
from cli.output import as_json_option, show
from messaging.operations.restore import restore as put_back

commands = AppGroup()


@commands.command(name="restore")
@click.argument("file", type=click.Path(path_type=Path))
@as_json_option
def restore(file: Path, as_json: bool) -> None:
    """Put the backup FILE in the place of the database, while web and worker are stopped; the old one is kept."""
    service = current_service()
    found = put_back(service.settings, service.database, file)
    show(found.as_json(), as_json, str(found))
