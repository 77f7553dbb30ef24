"""`run_foreground` on real processes: small ones that only wait, listed in a Procfile of the test's own."""

import io
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli import foreground
from cli.foreground import PROCFILE, ForegroundManager, SurvivingPrinter, run_foreground
from tests.support.real_processes import free_port, offline_environment
from utils.setting_types import REPOSITORY
from utils.settings import Settings, SettingsError

pytestmark = pytest.mark.processes

TIMEOUT_SECONDS = 20
STARTER = """
import sys
from pathlib import Path
from cli.foreground import run_foreground
from utils.settings import load_settings
sys.exit(run_foreground(load_settings(), Path(sys.argv[1])))
"""
WAITS = f"{sys.executable} -c 'import time; time.sleep(60)'"
NOTES_THE_STOP = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    time.sleep(0.3)
    Path(sys.argv[1]).write_text("stopped in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start_with(procfile: str, **overrides: str) -> "subprocess.Popen[str]":
        path = tmp_path / "Procfile"
        path.write_text(procfile)
        command = [sys.executable, "-c", STARTER, str(path)]
        ports = {"PORT": str(free_port()), "SIMULATOR_PORT": str(free_port())}
        environment = offline_environment(**(ports | overrides))
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start_with
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def read_until(process: "subprocess.Popen[str]", wanted: str) -> list[str]:
    assert process.stdout
    lines: list[str] = []
    while not any(wanted in line for line in lines):
        line = process.stdout.readline()
        assert line, f"ended before {wanted!r}: {lines}"
        lines.append(line)
    return lines


def process_ids(lines: list[str]) -> list[int]:
    return [int(line.split("(pid=")[1].split(")")[0]) for line in lines if "(pid=" in line]


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_every_process_finish_and_counts_as_success(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    script, note = tmp_path / "notes.py", tmp_path / "note"
    script.write_text(NOTES_THE_STOP)
    process = start(f"web: {sys.executable} {script} {note}\nworker: {WAITS}\n")
    read_until(process, "ready")
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, output
    assert note.read_text() == "stopped in order"


def test_a_stop_at_the_very_start_is_not_lost(start: Start) -> None:
    # As in a shell's background, where nobody's own handler is there before ours.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(f"web: {WAITS}\nworker: {WAITS}\n")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    read_until(process, "Service")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, output


def test_a_stop_before_anything_has_started_is_kept_as_a_wish() -> None:
    manager = ForegroundManager(SurvivingPrinter(io.StringIO()))
    manager.add_process("web", "sleep 60")
    manager.terminate()
    assert manager.is_asked_to_stop
    assert not manager._terminating


@pytest.mark.parametrize(("ending", "code"), [("exit 3", 3), ("exit 0", 1), ("kill -KILL $$", 137)])
def test_when_one_process_ends_the_others_are_stopped_and_it_counts_as_failure(
    start: Start, ending: str, code: int
) -> None:
    process = start(f"web: sh -c '{ending}'\nworker: {WAITS}\n")
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == code, output
    assert not any(is_running(process_id) for process_id in process_ids(output.splitlines()))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's own")
def test_the_processes_do_not_outlive_a_killed_starter(start: Start) -> None:
    process = start(f"web: {WAITS}\nworker: {WAITS}\n")
    children = process_ids([*read_until(process, "(pid="), *read_until(process, "(pid=")])
    assert len(children) == 2
    process.kill()
    assert wait_for(lambda: not any(is_running(child) for child in children))


def test_the_processes_go_on_when_nobody_reads_any_more(start: Start, tmp_path: Path) -> None:
    note = tmp_path / "note"
    process = start(f"web: sh -c 'sleep 1; echo unheard; echo unheard; echo done > {note}; sleep 60'\n")
    read_until(process, "(pid=")
    assert process.stdout
    process.stdout.close()
    assert wait_for(note.exists)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=TIMEOUT_SECONDS) == 0


def test_the_simulator_runs_only_offline(start: Start) -> None:
    procfile = "web: sh -c 'echo at=$AT_BASE_URL; sleep 1'\nsimulator: sh -c 'echo simulating; sleep 60'\n"
    offline, _ = start(procfile).communicate(timeout=TIMEOUT_SECONDS)
    assert "simulating" in offline
    assert "at=http://127.0.0.1:" in offline
    account = {"AT_USERNAME": "shop", "AT_API_KEY": "k", "API_KEYS": "k" * 16, "WEBHOOK_TOKENS": "t" * 16}
    login = {"DASHBOARD_PASSWORD": "p" * 16, "SECRET_KEY": "s" * 16}
    online, _ = start(procfile, **account, **login).communicate(timeout=TIMEOUT_SECONDS)
    assert "simulating" not in online
    assert "at=\n" in online
    assert "https://api.africastalking.com, account shop" in online


def test_the_greeting_names_the_service_the_phones_and_the_callback_urls_once(start: Start) -> None:
    port, simulator_port = free_port(), free_port()
    process = start(
        "web: sh -c 'exit 0'\n", PORT=str(port), SIMULATOR_PORT=str(simulator_port), WEBHOOK_TOKENS="t0ken"
    )
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    for told in (
        f"Service      http://127.0.0.1:{port}\n",
        f"API          http://127.0.0.1:{port}/docs\n",
        f"http://127.0.0.1:{simulator_port}/ ",
        f"http://127.0.0.1:{port}/sms/twoway?token=… ",
        f"http://127.0.0.1:{port}/sms/delivery-reports?token=… ",
        f"http://127.0.0.1:{port}/sms/opt-out?token=… ",
    ):
        assert output.count(told) == 1, output
    assert "t0ken" not in output


def test_the_log_is_plain_where_a_person_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreground._log_format(Settings()) == "json"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert foreground._log_format(Settings()) == "text"
    assert foreground._log_format(Settings(log_format="json")) == "json"


def test_a_taken_port_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            run_foreground(Settings(port=port, simulator_port=free_port()), PROCFILE)
    (problem,) = caught.value.problems
    assert problem.startswith(f"PORT {port} is taken")


def test_a_web_concurrency_left_empty_reaches_gunicorn_as_a_number(start: Start) -> None:
    output, _ = start("web: sh -c 'echo processes=$WEB_CONCURRENCY'\n", WEB_CONCURRENCY="").communicate(
        timeout=TIMEOUT_SECONDS
    )
    assert "processes=1\n" in output
