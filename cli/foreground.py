"""`sms start`: web, worker and (offline) the simulator in the foreground, by honcho from `Procfile.dev`.

They start together and end together: on Ctrl-C or SIGTERM, or when any of them ends by itself. On Linux
they also end when this process is killed, so that no port stays taken by an orphan.
"""

import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click
import honcho.manager
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Printer
from honcho.process import Popen, Process

from utils.logs import AUTO, JSON, TEXT
from utils.setting_types import REPOSITORY
from utils.settings import Settings, SettingsError, child_environment

PROCFILE = REPOSITORY / "Procfile.dev"
SIMULATOR = "simulator"
# honcho's own wait is 5 s; the worker may be in a POST, gunicorn finishes its requests within 30 s.
STOP_SLACK_SECONDS = 15
GRACEFUL_WEB_SECONDS = 30
ENDED_UNASKED = 1
PR_SET_PDEATHSIG = 1
C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_foreground(settings: Settings, procfile: Path = PROCFILE) -> int:
    """Runs the processes until asked to stop; the exit code: 0 when asked, else of what ended first.

    Raises SettingsError where a port is taken.
    """
    problems = list(_find_taken_ports(settings))
    if problems:
        raise SettingsError(problems)
    longest = max(settings.at_timeout_seconds, GRACEFUL_WEB_SECONDS)
    honcho.manager.KILL_WAIT = longest + STOP_SLACK_SECONDS
    manager = ForegroundManager(SurvivingPrinter(sys.stdout))
    environment = child_environment(_overrides(settings))
    for name, command in _choose_processes(settings, procfile).items():
        # `exec`: a signal must reach the process, not a shell that waits for it.
        manager.add_process(name, f"exec {command}", env=environment, cwd=str(REPOSITORY))
    manager.heed_signals()
    for line in _greeting(settings):
        click.echo(line)
    manager.loop()
    return manager.exit_code


def _choose_processes(settings: Settings, procfile: Path) -> dict[str, str]:
    processes: dict[str, str] = dict(parse_procfile(procfile.read_text()).processes)
    return {name: command for name, command in processes.items() if settings.is_offline or name != SIMULATOR}


def _overrides(settings: Settings) -> dict[str, str]:
    """What the children need beyond the environment; `Procfile.dev` reads these names."""
    overrides = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{child_environment({}).get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "BIND": settings.bind,
        "PORT": str(settings.port),
        "SIMULATOR_PORT": str(settings.simulator_port),
        "SIMULATOR_DATABASE": str(settings.simulator_database),
        "SERVICE_URL": settings.service_url,
        # gunicorn fails on an empty one, which a copied `.env.example` holds.
        "WEB_CONCURRENCY": str(settings.web_concurrency),
        # They write to honcho's pipes, and it to this terminal.
        "LOG_FORMAT": _log_format(settings),
        "WEBHOOK_TOKENS": ",".join(settings.webhook_tokens),
    }
    if settings.is_offline:
        overrides |= {"AT_BASE_URL": settings.provider_host, "AT_SHORTCODE": settings.at_shortcode or ""}
    return overrides


def _log_format(settings: Settings) -> str:
    if settings.log_format != AUTO:
        return settings.log_format
    return TEXT if sys.stdout.isatty() else JSON


def _find_taken_ports(settings: Settings) -> Iterator[str]:
    ports = [("PORT", settings.bind, settings.port)]
    if settings.is_offline:
        ports.append(("SIMULATOR_PORT", "127.0.0.1", settings.simulator_port))
    for name, host, port in ports:
        if _is_taken(host, port):
            yield f"{name} {port} is taken by another program: stop that or set {name} to a free one"


def _is_taken(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return False
    except OSError as error:  # anything else is for the server itself to explain
        return error.errno == errno.EADDRINUSE


def _greeting(settings: Settings) -> Iterator[str]:
    yield f"Service      {settings.service_url}"
    yield f"API          {settings.service_url}/docs"
    if settings.is_offline:
        yield f"Phones       {settings.simulator_url}/  (offline: no text leaves this machine)"
    else:
        yield f"Provider     {settings.provider_host}, account {settings.provider_username}"
    for name, url in settings.callback_urls.items():
        # A terminal is often recorded, and a token lets in whoever reads it.
        path, _, token = url.partition("?token=")
        yield f"Callback     {path}{'?token=…' if token else ''}  ({name})"
    if settings.webhook_tokens:
        yield "The token is the first of WEBHOOK_TOKENS; `sms doctor` shows the whole URLs."
    yield "Ctrl-C stops all of it."


class SurvivingPrinter(Printer):
    """Where the reader went away (`make run | head`), the processes go on and their lines are dropped."""

    def write(self, message: Any) -> None:
        try:
            super().write(message)
        except BrokenPipeError:
            self.output = Path(os.devnull).open("w")  # noqa: SIM115


class MortalPopen(Popen):
    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(command, preexec_fn=_end_with_parent, **options)


class MortalProcess(Process):
    """A child that is told to stop, and its honcho runner that is killed, when the process above dies."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._child_ctor = MortalPopen

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        # The runner ignores SIGTERM.
        _end_with_parent(signal.SIGKILL)
        super().run(events, ignore_signals)


def _end_with_parent(number: int = signal.SIGTERM) -> None:
    if C_LIBRARY:
        C_LIBRARY.prctl(PR_SET_PDEATHSIG, number)


class ForegroundManager(Manager):
    """honcho's manager, whose own signal handler fails in two ways that an early Ctrl-C meets.

    It raises KeyError where a child has not yet reported its pid, and it prints, which raises RuntimeError when
    the signal came in the midst of a print. Here the handler only notes the request; honcho's loop asks
    `_all_started` in every pass (at least each 0.1 s), and the stop happens there.
    """

    def __init__(self, printer: Printer) -> None:
        super().__init__(printer)
        self._process_ctor = MortalProcess
        self.is_asked_to_stop = False

    @property
    def exit_code(self) -> int:
        if self.is_asked_to_stop:
            return 0
        code: int = self.returncode or ENDED_UNASKED
        return code if code > 0 else 128 - code

    def heed_signals(self) -> None:
        """From here on a stop is kept, also where SIGINT is ignored, as in a shell's background."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_the_wish)

    def _start(self) -> None:
        self.heed_signals()
        super()._start()

    def _note_the_wish(self, _number: int, _frame: FrameType | None) -> None:
        self.is_asked_to_stop = True

    def terminate(self) -> None:
        """honcho's own handler, there until `_start` puts ours in its place, comes here with nothing started yet.

        honcho would take that for done, start everything and never stop it.
        """
        if super()._all_started():
            super().terminate()
        else:
            self.is_asked_to_stop = True

    def _all_started(self) -> bool:
        have_started: bool = super()._all_started()
        if have_started and self.is_asked_to_stop:
            self.terminate()
        return have_started
