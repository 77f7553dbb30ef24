"""What a newcomer or a platform meets first: make, the Procfiles, the pins, CI's script."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from honcho.environ import parse_procfile

from utils.setting_types import REPOSITORY

COMMANDS = ("help", "run", "test", "check", "format", "lint", "types", "benchmark", "pins", "pins-check")


def make(*arguments: str, folder: Path = REPOSITORY) -> "subprocess.CompletedProcess[str]":
    # As a person types it, also when the tests themselves run under make.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def script(folder: Path, body: str) -> str:
    path = folder / "python-of-another-age"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_make_help_lists_every_command_and_is_the_default(arguments: tuple[str, ...]) -> None:
    listed = {line.split()[1] for line in make(*arguments).stdout.splitlines()}
    assert listed >= set(COMMANDS)


@pytest.mark.parametrize("command", ["run", "test"])
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("exit 1", "Python 3.11 or newer is needed"),
        ('case "$*" in *ensurepip*) exit 1;; esac; exit 0', "apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_told_in_one_line(
    fresh_clone: Path, command: str, body: str, wanted: str
) -> None:
    outcome = make(command, script(fresh_clone, body), folder=fresh_clone)
    (line,) = (outcome.stdout + outcome.stderr).splitlines()
    assert outcome.returncode != 0
    assert wanted in line
    assert not (fresh_clone / ".venv").exists()


def test_make_run_installs_only_what_the_service_needs() -> None:
    planned = make("--dry-run", "--always-make", "run").stdout
    assert "requirements.txt" in planned
    assert "requirements-dev.txt" not in planned
    assert "--require-hashes" in planned
    assert planned.index("sms migrate") < planned.index("sms start")


def test_the_procfile_serves_a_platform_as_it_is() -> None:
    processes = parse_procfile((REPOSITORY / "Procfile").read_text()).processes
    assert list(processes) == ["release", "web", "worker"]
    assert processes["release"].endswith("sms migrate")
    assert "0.0.0.0:$PORT" in processes["web"]


def test_the_local_procfile_leaves_the_address_to_the_settings_and_adds_the_simulator() -> None:
    processes = parse_procfile((REPOSITORY / "Procfile.dev").read_text()).processes
    assert list(processes) == ["web", "worker", "simulator"]
    assert "--bind" not in processes["web"]


def direct(name: str) -> list[str]:
    lines = (REPOSITORY / name).read_text().splitlines()
    return [found.group().lower() for line in lines if (found := re.match(r"[A-Za-z][\w-]*", line))]


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    pins = re.split(r"\n(?=[a-z])", (REPOSITORY / f"{name}.txt").read_text())
    pinned = {re.split(r"==", pin)[0].split("[")[0].split()[0] for pin in pins}
    assert pinned >= set(direct(f"{name}.in"))
    assert not [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin]


def test_the_cards_packages_stand_first() -> None:
    card = ["flask", "africastalking", "python-dotenv", "gunicorn", "pytest", "responses"]
    assert direct("requirements.in")[: len(card)] == card


def test_the_ci_script_is_sound_and_may_be_executed() -> None:
    path = REPOSITORY / ".ci" / "run"
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(path)], timeout=10).returncode == 0


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({"promtool": "echo checked $*"}, "checked check rules docs/alerts.yml\n"),
        ({"apt-get": "exit 100", "sudo": '"$@"'}, "docs/alerts.yml is not checked"),
        ({}, "docs/alerts.yml is not checked"),
    ],
    ids=["installed", "apt fails", "no apt"],
)
def test_the_ci_script_checks_the_alerts_or_says_why_not(
    tmp_path: Path, programs: dict[str, str], said: str
) -> None:
    for name, body in {"id": "echo 1000", **programs}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = (REPOSITORY / ".ci" / "run").read_text()
    functions = re.findall(
        r"^(?:as_root|install_promtool|check_alerts)\(\) \{.*?\}$", script, re.DOTALL | re.MULTILINE
    )
    assert len(functions) == 3
    steps = ["set -euo pipefail", *functions, "install_promtool || true", "check_alerts"]
    command = ["/bin/bash", "-c", "\n".join(steps)]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0
    assert said in done.stdout + done.stderr
