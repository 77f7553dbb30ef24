"""`flask --app app sms …`: what an operator does from a shell. Each command calls what the routes call."""

from __future__ import annotations

import os
import pwd
from importlib import import_module
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo
from setproctitle import setproctitle
from sqlalchemy.exc import SQLAlchemyError

from messaging.access.actor import Actor, acting
from utils.errors import ServiceError
from utils.version import VERSION

# A command imports only its own module: importing all of them takes a second.
MODULES = {
    "actions": "cli.access",
    "audit": "cli.operations",
    "balance": "cli.figures",
    "backup": "cli.backup",
    "batch": "cli.batch_control",
    "bulk": "cli.batches",
    "close": "cli.sends",
    "consents": "cli.consents",
    "conversations": "cli.conversations",
    "doctor": "cli.operations",
    "fetch-inbound": "cli.operations",
    "forget": "cli.forget",
    "forwarding": "cli.forwarding",
    "keys": "cli.access",
    "held": "cli.held",
    "inbound": "cli.conversations",
    "messages": "cli.messages",
    "migrate": "cli.operations",
    "operators": "cli.access",
    "opt-outs": "cli.opt_outs",
    "proof": "cli.proof",
    "quote": "cli.batches",
    "reply": "cli.conversations",
    "replay": "cli.operations",
    "resend": "cli.sends",
    "restore": "cli.restore",
    "resume": "cli.operations",
    "send": "cli.sends",
    "start": "cli.operations",
    "stats": "cli.figures",
    "status": "cli.messages",
}


class SmsGroup(AppGroup):
    """Every failure is one sentence on standard error and exit code 1; never a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """First of all: whoever may list the processes of this machine shall read no number, text or key there."""
        names = [word for word in args if word in MODULES]
        setproctitle(" ".join(["sms", *names[:1]]))
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        found: click.Command | None = import_module(MODULES[cmd_name]).commands.get_command(ctx, cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        acting.set(Actor(f"shell:{_user()}", may_approve=True))
        try:
            return super().invoke(ctx)
        except ServiceError as error:
            raise click.ClickException(error.message) from None
        except SQLAlchemyError as error:
            from messaging.operations.health import explain_storage_error

            # The app's context has ended with the command.
            service = ctx.ensure_object(ScriptInfo).load_app().extensions["sms"]
            explained = explain_storage_error(service.database, error)
            raise click.ClickException(explained.message) from None


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # In a container it may have no name.
        return str(os.getuid())


@click.group(cls=SmsGroup, help="Run and look after the SMS service.")
@click.version_option(VERSION, prog_name="SMS service")
def sms() -> None:
    """Only the commands do anything."""
