from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flask import Flask, request

from app import create_app
from messaging.operations.account_check import claim_identity
from messaging.storage.database import Database
from messaging.storage.migrations import migrate
from tests.support.real_processes import free_port, offline_environment
from utils.setting_types import REPOSITORY
from utils.settings import Settings

TIMEOUT_SECONDS = 60
ACCOUNT = {
    "AT_USERNAME": "clinic",
    "AT_API_KEY": "k" * 20,
    "API_KEYS": "a" * 20,
    "WEBHOOK_TOKENS": "t" * 20,
    "DASHBOARD_PASSWORD": "p" * 20,
    "SECRET_KEY": "s" * 20,
}


def run(*arguments: str, **overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=offline_environment(**overrides),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def own_lines(told: str) -> list[str]:
    """Without the log's."""
    return [line for line in told.splitlines() if not line.startswith("{")]


@pytest.fixture
def new_database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new.db"


@pytest.fixture
def foreign_database(new_database: str) -> str:
    """One that has served a real account."""
    database = Database(new_database)
    migrate(database)
    claim_identity(database, Settings(at_username="clinic", at_api_key="k"))
    database.close()
    return new_database


@pytest.mark.processes
def test_importing_the_app_starts_nothing_and_touches_nothing(tmp_path: Path) -> None:
    look = "import app, threading; print(threading.active_count())"
    outcome = run("-c", look, DATABASE_URL=f"sqlite:///{tmp_path}/sub/sms.db", PORT="not a number")
    assert (outcome.returncode, outcome.stdout) == (0, "1\n"), outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_making_the_app_opens_no_connection_and_starts_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    create_app(Settings(database_url=f"sqlite:///{tmp_path}/sms.db"))
    assert threading.active_count() == before
    assert not (tmp_path / "sms.db").exists()


@pytest.mark.processes
@pytest.mark.parametrize("words", [("migrate",), ("doctor",), ("audit",)])
def test_wrong_settings_stop_a_command_with_one_line_each(words: tuple[str, ...], new_database: str) -> None:
    outcome = run(
        "-m", "flask", "--app", "app", "sms", *words, DATABASE_URL=new_database, AT_USERNAME="clinic"
    )
    assert outcome.returncode == 3
    assert len(own_lines(outcome.stderr)) == 5
    assert "Traceback" not in outcome.stderr


@pytest.mark.processes
def test_a_command_works_offline_on_an_empty_database(new_database: str) -> None:
    outcome = run("-m", "flask", "--app", "app", "sms", "migrate", DATABASE_URL=new_database)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "The database is up to date.\n", "")
    sent = run(
        "-m", "flask", "--app", "app", "sms", "send", "+254711000001", "Hello", DATABASE_URL=new_database
    )
    assert (sent.returncode, sent.stdout) == (0, "Message 1 to +254711000001 is queued.\n")
    (hint,) = sent.stderr.splitlines()
    assert hint.startswith("Idempotency-Key: ")


def serve_with_flask(**overrides: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "flask", "--app", "app", "run", "--port", str(free_port()), **overrides)


def serve_with_gunicorn(**overrides: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "gunicorn", "app:create_app()", PORT=str(free_port()), **overrides)


SERVERS = [serve_with_flask, serve_with_gunicorn]


@pytest.mark.processes
@pytest.mark.parametrize("serve", SERVERS)
def test_serving_without_an_account_is_refused_in_one_line(serve: object, new_database: str) -> None:
    assert callable(serve)
    outcome = serve(DATABASE_URL=new_database)
    assert outcome.returncode != 0
    (line,) = own_lines(outcome.stderr)
    assert line.startswith("AT_USERNAME is not set")


@pytest.mark.processes
@pytest.mark.parametrize("serve", SERVERS)
def test_serving_an_unmigrated_database_is_refused_in_one_line(serve: object, new_database: str) -> None:
    assert callable(serve)
    outcome = serve(DATABASE_URL=new_database, **ACCOUNT)
    assert outcome.returncode == 3
    assert "The database is not migrated: run `flask --app app sms migrate`" in own_lines(outcome.stderr)
    assert "Traceback" not in outcome.stderr


@pytest.mark.processes
@pytest.mark.parametrize("serve", SERVERS)
def test_the_simulator_is_refused_the_records_of_an_account(serve: object, foreign_database: str) -> None:
    assert callable(serve)
    outcome = serve(DATABASE_URL=foreign_database, AT_BASE_URL="http://127.0.0.1:1")
    assert outcome.returncode == 3
    assert any("serves the account clinic" in line for line in own_lines(outcome.stderr))
    assert "Traceback" not in outcome.stderr


@pytest.mark.processes
def test_make_run_is_refused_the_records_of_an_account_in_one_line(foreign_database: str) -> None:
    outcome = run("-m", "flask", "--app", "app", "sms", "start", DATABASE_URL=foreign_database)
    assert outcome.returncode == 1
    (line,) = own_lines(outcome.stderr)
    assert "serves the account clinic" in line


def peer_as_seen(app: Flask, peer: str) -> str:
    @app.route("/peer")
    def show_peer() -> str:
        return f"{request.remote_addr} {request.scheme}"

    forwarded = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7", "X-Forwarded-Proto": "https"}
    return app.test_client().get("/peer", headers=forwarded, environ_base={"REMOTE_ADDR": peer}).text


@pytest.mark.parametrize(
    ("trusted", "peer", "seen"),
    [
        ((), "10.0.0.1", "10.0.0.1 http"),
        (("10.0.0.0/8",), "10.0.0.1", "198.51.100.7 https"),
        (("10.0.0.0/8",), "192.0.2.1", "192.0.2.1 http"),
        (("10.0.0.0/8",), "", "None http"),
        (("10.0.0.0/8", "::1/128"), "::1", "198.51.100.7 https"),
    ],
)
def test_forwarding_headers_count_only_from_a_trusted_proxy(
    tmp_path: Path, trusted: tuple[str, ...], peer: str, seen: str
) -> None:
    guarded = {"api_keys": ("a" * 20,), "webhook_tokens": ("t" * 20,)}
    url = f"sqlite:///{tmp_path}/sms.db"
    app = create_app(Settings(database_url=url, trusted_proxies=trusted, **guarded))
    assert peer_as_seen(app, peer) in (seen, seen.removeprefix("None"))


def test_a_command_imports_neither_the_web_skin_nor_the_provider(new_database: str) -> None:
    """Each of them takes longer to import than the command takes to answer."""
    database = Database(new_database)
    migrate(database)
    database.close()
    code = (
        "import sys; from flask.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = run("-c", code, "--app", "app", "sms", "status", "1", "--json", DATABASE_URL=new_database)
    assert "There is no message 1" in done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert {"flask", "cli.messages"} <= loaded
    assert not {"routes.web_app", "utils.sms_utils", "huey", "alembic", "psycopg", "redis"} & loaded
