"""`create_app()` is what gunicorn and the `flask` command call; importing this starts nothing."""

from __future__ import annotations

from typing import NoReturn

import click
from flask import Flask

from cli.commands import sms
from messaging.service import Service
from utils.errors import ServiceError
from utils.logs import configure_logging
from utils.settings import Settings, load_settings

# gunicorn stops altogether when a worker ends so, instead of starting it again and again.
BOOT_ERROR = 3
# Flask's own commands that look at the routes.
LOOKS_AT_ROUTES = ("routes", "shell")


def create_app(settings: Settings | None = None) -> Flask:
    """The app on these settings, else on those of the environment; then a start that cannot be is refused.

    The refusal is one line per problem on standard error and exit code 3.
    """
    if settings is not None:
        return _create_web_app(settings)
    try:
        settings = load_settings()
        context = click.get_current_context(silent=True)
        if context is None or context.info_name == "run":
            app = _create_web_app(settings)
            _require_servable(app.extensions["sms"])
            _start_recoverer(app.extensions["sms"])
        elif context.info_name in LOOKS_AT_ROUTES:
            app = _create_web_app(settings)
        else:
            app = _create_command_app(settings)
    except ServiceError as error:
        _refuse(error)
    return app


def _create_web_app(settings: Settings) -> Flask:
    # Not at the top: a command needs none of it, and it takes most of a second.
    from routes.web_app import build_web_app

    app = build_web_app(settings)
    app.cli.add_command(sms)
    return app


def _create_command_app(settings: Settings) -> Flask:
    """For `flask sms …`, which must work before there is anything to serve."""
    # A command speaks to a person: what it has to say is its answer.
    configure_logging("ERROR", settings.secrets, settings.log_format)
    app = Flask(__name__)
    service = Service(settings)
    service.database.wake = lambda: _wake(service)
    app.extensions["sms"] = service
    app.cli.add_command(sms)
    return app


def _wake(service: Service) -> None:
    """Makes the waker at the first commit that needs one: the task engine takes a third of a second to import."""
    from messaging.storage.task_queue import Waker

    service.database.wake = Waker(service.settings)
    service.database.wake()


def _require_servable(service: Service) -> None:
    from messaging.conversations.handlers import require_handlers
    from messaging.operations.account_check import claim_identity
    from messaging.operations.health import require_migrated

    service.settings.require_provider()
    require_handlers(service.settings)
    require_migrated(service.database)
    claim_identity(service.database, service.settings)


def _start_recoverer(service: Service) -> None:
    from messaging.operations import recovery

    recovery.start(service.settings, service.database, service.provider)


def _refuse(error: ServiceError) -> NoReturn:
    click.echo(error.message, err=True)
    raise SystemExit(BOOT_ERROR)
