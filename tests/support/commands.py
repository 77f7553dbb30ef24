"""Whether a command line that stands in a file for people or platforms is one that exists here."""

import importlib.util
import os
import re
import shlex
import subprocess

import click

from app import create_app
from utils.setting_types import REPOSITORY
from utils.settings import Settings

# What else a Dockerfile or a unit may start.
FOREIGN = {"pg_isready", "psql"}
SMS = ["flask", "--app", "app", "sms"]


def sms_commands() -> click.Group:
    """Of an app whose database is never opened."""
    app = create_app(Settings(database_url="sqlite:////nonexistent/sms.db"))
    group = app.cli.commands["sms"]
    assert isinstance(group, click.Group)
    return group


def names_in(group: click.Group) -> list[str]:
    """`sms` imports a command only when it is asked for, so the group's own dictionary is empty."""
    return group.list_commands(click.Context(group))


def command_in(group: click.Group, name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def would_make(arguments: list[str]) -> bool:
    # As a person types it, also when the tests themselves run under make.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=20)
    return done.returncode == 0


def why_not(group: click.Group, command: str | list[str]) -> str | None:
    """None for a command that exists, else what is wrong with it."""
    words = shlex.split(command, comments=True) if isinstance(command, str) else command
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["exec"]:
        words = words[1:]
    program, *arguments = words
    name = program.rpartition("/")[2]
    if name == "flask":
        if [name, *arguments[:3]] != SMS:
            return f"not `{' '.join(SMS)} …`"
        return _why_not_sms(group, arguments[3:])
    if name.startswith("python"):
        return _why_not_python(arguments)
    if name == "gunicorn":
        return None if arguments[-1] == "app:create_app()" else "not the app"
    if name == "make":
        return None if would_make(arguments) else "make knows no such target"
    return None if name in FOREIGN else f"{name} is not known here"


def _why_not_python(arguments: list[str]) -> str | None:
    if arguments[:1] == ["-c"]:
        compile(arguments[1], "-c", "exec")
        return None
    if arguments[:1] == ["-m"]:
        found = importlib.util.find_spec(arguments[1]) is not None
        return None if found else f"there is no module {arguments[1]}"
    return "neither -c nor -m"


def _why_not_sms(command: click.Command, words: list[str]) -> str | None:
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    if not isinstance(command, click.Group):
        return f"{command.name} has no {unknown}" if unknown else None
    if not words or words[0] == "…":
        return None
    if words[0] not in names_in(command):
        return f"{command.name} has no command {words[0]}"
    return _why_not_sms(command_in(command, words[0]), words[1:])
