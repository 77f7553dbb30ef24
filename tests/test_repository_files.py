"""The files that other programs read (Docker, Compose, the CI host, pre-commit) name only what exists here."""

import ast
import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from honcho.environ import parse_procfile

from app import create_app
from messaging.storage import migrations
from migrations.__main__ import write_migration
from tests.support.commands import make_targets, sms_commands, why_not
from tests.support.databases import opened
from tests.support.real_processes import offline_environment
from utils.setting_types import REPOSITORY
from utils.settings import Settings
from utils.version import VERSION

NOT_IN_THE_IMAGE = {".env", "compose.env", "instance", ".git", ".venv", "tests"}
# Of the image's own shell; what they do is read by people.
SHELL_WORDS = {"useradd", "install"}


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    return yaml.safe_load(text(name))


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, continued lines joined."""
    lines = [line for line in text("Dockerfile").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def told(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


@pytest.fixture(scope="module")
def group() -> click.Group:
    return sms_commands()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_yaml("compose.yaml")["services"]


def ours(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in compose.items() if "build" in service}


def ignored_by_docker() -> list[str]:
    lines = text(".dockerignore").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def is_in_the_image(path: str) -> bool:
    parents = ["/".join(path.split("/")[: depth + 1]) for depth in range(path.count("/") + 1)]
    return not any(fnmatch.fnmatch(one, pattern) for one in parents for pattern in ignored_by_docker())


def imported_from(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    return {name.split(".")[0] for name in names}


def test_every_path_that_the_image_copies_exists() -> None:
    sources = [rest.split()[:-1] for rest in told("COPY") if not rest.startswith("--from")]
    assert sources
    assert [one for names in sources for one in names if not (REPOSITORY / one).exists()] == []


def test_the_image_holds_no_secret_and_no_data() -> None:
    assert [name for name in NOT_IN_THE_IMAGE if is_in_the_image(name)] == []


def test_the_image_holds_all_code_that_the_service_imports() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    in_image = [name for name in files.stdout.splitlines() if is_in_the_image(name)]
    own = {name.split("/")[0].removesuffix(".py") for name in files.stdout.splitlines()}
    there = {name.split("/")[0].removesuffix(".py") for name in in_image}
    wanted = set().union(*(imported_from(REPOSITORY / name) for name in in_image)) & own
    assert {"app", "messaging", "simulator"} <= there
    assert wanted <= there
    assert [name for name in ("Procfile.dev", "data/keywords.toml") if not is_in_the_image(name)] == []


def test_the_image_runs_the_app_and_not_as_root(group: click.Group) -> None:
    names = [name for name, _ in instructions()]
    (user,) = told("USER")
    assert any(f" {user}" in line and "useradd" in line for line in told("RUN"))
    assert names.index("USER") < names.index("CMD")
    *_, last = json.loads(told("CMD")[0])[-1].split("; ")
    assert why_not(group, last) is None
    (port,) = told("EXPOSE")
    assert f"exec gunicorn --bind 0.0.0.0:{port} " in last


@pytest.mark.parametrize("concurrency", ["", "2"])
def test_the_image_serves_also_where_a_copied_example_leaves_a_setting_empty(
    tmp_path: Path, concurrency: str
) -> None:
    *shell, script = json.loads(told("CMD")[0])
    url = f"sqlite:///{tmp_path}/sms.db"
    with opened(url) as database:
        migrations.migrate(database)
    environment = offline_environment(
        WEB_CONCURRENCY=concurrency, AT_BASE_URL="http://127.0.0.1:1", DATABASE_URL=url
    )
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [*shell, script.replace("gunicorn ", "gunicorn --check-config ")]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_the_image_installs_only_what_is_pinned() -> None:
    (line,) = [line for line in told("RUN") if "pip install" in line]
    assert "--require-hashes" in line
    assert (REPOSITORY / "requirements.txt").exists()


def test_the_health_of_the_image_is_asked_at_a_route_that_is_open(group: click.Group, tmp_path: Path) -> None:
    (line,) = told("HEALTHCHECK")
    command = json.loads(line.partition("CMD ")[2])
    assert why_not(group, command) is None
    port, path = re.findall(r"127\.0\.0\.1:(\d+)(/\w+)", command[-1])[0]
    assert [port] == told("EXPOSE")
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/sms.db", api_keys=("k" * 20,)))
    assert app.test_client().get(path).status_code == 200


def test_every_command_of_compose_exists(compose: dict[str, Any], group: click.Group) -> None:
    commands = [service["command"] for service in compose.values() if "command" in service]
    checks = [
        service["healthcheck"].get("test", ["CMD"])[1:]
        for service in compose.values()
        if "healthcheck" in service
    ]
    commands += [check for check in checks if check]
    assert len(commands) == 3
    assert {" ".join(one): why_not(group, one) for one in commands if why_not(group, one)} == {}


def test_compose_does_what_the_procfile_does(compose: dict[str, Any]) -> None:
    lines = parse_procfile(text("Procfile")).processes
    assert {name for name in lines if name not in ours(compose)} == set()
    assert " ".join(compose["release"]["command"]) == lines["release"]
    assert " ".join(compose["worker"]["command"]) == lines["worker"]


def test_compose_names_only_settings_services_and_volumes_that_exist(compose: dict[str, Any]) -> None:
    names = {name.upper() for name in Settings.model_fields}
    volumes = {
        volume.partition(":")[0] for service in compose.values() for volume in service.get("volumes", [])
    }
    assert volumes == set(read_yaml("compose.yaml")["volumes"])
    for service in ours(compose).values():
        assert set(service["environment"]) <= names
        assert set(service["depends_on"]) <= set(compose)
        assert (REPOSITORY / service["build"] / "Dockerfile").exists()


def test_every_service_of_compose_says_how_its_health_is_known(compose: dict[str, Any]) -> None:
    """The worker and the migration listen nowhere; the web process has the image's own check."""
    assert [name for name, service in compose.items() if "healthcheck" not in service] == ["web"]
    assert "disable" not in compose["database"]["healthcheck"]


def test_a_stop_gives_each_process_the_time_it_takes(compose: dict[str, Any]) -> None:
    seconds = {name: int(compose[name]["stop_grace_period"].rstrip("s")) for name in ("web", "worker")}
    assert seconds["web"] > 30
    assert seconds["worker"] > Settings(database_url="sqlite:////nonexistent/sms.db").at_timeout_seconds + 60


def test_images_are_named_without_a_host(compose: dict[str, Any]) -> None:
    images = [rest.split()[0] for rest in told("FROM")] + [one["image"] for one in compose.values()]
    assert len(images) >= 3
    assert [image for image in images if "." in image.partition("/")[0] and "/" in image] == []


def test_ci_runs_the_script_and_nothing_else() -> None:
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step] == ["actions/checkout"]


def test_the_hooks_run_the_tools_that_are_pinned() -> None:
    (repo,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    pinned = text("requirements-dev.in").split()
    programs = [hook["entry"].split() for hook in repo["hooks"]]
    assert [words[:2] for words in programs] == [
        [".venv/bin/ruff", "format"],
        [".venv/bin/ruff", "check"],
        ["make", "types"],
    ]
    assert {"ruff", "mypy"} <= set(pinned)
    assert "types" in make_targets()


def test_the_project_says_what_it_is() -> None:
    tools = tomllib.loads(text("pyproject.toml"))
    project = tools["project"]
    assert (REPOSITORY / project["readme"]).exists()
    assert project["license"] == "MIT"
    assert project["version"] == VERSION
    assert f"## {VERSION}" in text("CHANGELOG.md")
    assert [name for name in project["license-files"] if not text(name).startswith("MIT License")] == []
    oldest = project["requires-python"].removeprefix(">=")
    assert tools["tool"]["mypy"]["python_version"] == oldest
    assert tools["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert told("FROM")[0].startswith(f"python:{oldest}-")


@pytest.mark.parametrize(
    ("command", "is_there"),
    [
        (".venv/bin/flask --app app sms send +254711000001 Hello --json", True),
        ("flask --app app sms opt-outs import stop.csv", True),
        ("flask --app app sms nonsense", False),
        ("flask --app app sms batch nonsense 1", False),
        ("flask --app app sms send --loudly", False),
        ("PORT=9000 make run", True),
        ("make nonsense", False),
        ("python -m no_such_module", False),
        ("gunicorn other:app", False),
    ],
)
def test_the_search_for_commands_that_do_not_exist_finds_them(
    group: click.Group, command: str, is_there: bool
) -> None:
    assert (why_not(group, command) is None) is is_there


def test_a_new_migration_is_written_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako"):
        (folder / name).write_text(text(f"migrations/{name}"))
    monkeypatch.setattr(migrations, "SCRIPTS", folder)
    write_migration("every table at once")
    (written,) = (folder / "versions").glob("*_every_table_at_once.py")
    assert "op.create_table('messages'" in written.read_text()
