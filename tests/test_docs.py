"""Every setting, route and command stands where a person looks for it."""

import re
import subprocess
from pathlib import Path

import pytest
from flask import Flask
from honcho.environ import parse_procfile

from app import create_app
from tests.support.commands import names_in, sms_commands, why_not
from utils.setting_types import REPOSITORY
from utils.settings import Settings, load_settings

NAMES = [name.upper() for name in Settings.model_fields]
INTERNAL = {"static"}


PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
LONGEST_README = 140
# Of a shell and of a machine, in the blocks that hold commands of ours, too.
OTHER_PROGRAMS = {
    *("cd", "cp", "curl", "docker", "export", "git", "install", "pg_dump", "systemctl", "umask", "useradd"),
    "pre-commit",
}


def page(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def tracked(pattern: str) -> list[Path]:
    command = ["git", "ls-files", pattern]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [REPOSITORY / name for name in names.splitlines()]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def shell_commands(block: str) -> list[str]:
    """One command each: continued lines joined, `a && b` and `a > file` taken apart."""
    lines = block.replace("\\\n", " ").splitlines()
    parts = (part for line in lines if line and not line.startswith("#") for part in line.split(" && "))
    return [re.sub(r"^runuser -u \w+ -- | > \S+$", "", part) for part in parts]


def inside_docker(command: str) -> str:
    return re.sub(r"^docker compose .* exec \w+ ", "", command)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    found = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    return [link for link in found if not link.startswith("http")]


def leads_nowhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    return not target.exists() or bool(anchor and anchor not in anchors(target))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder: Path = tmp_path_factory.mktemp("docs")
    return create_app(Settings(database_url=f"sqlite:///{folder}/sms.db"))


def in_words(rule: str) -> str:
    """`/v1/messages/<int:message_id>` as a pattern of how a reader sees it: `/v1/messages/{id}`."""
    parts = re.split(r"<[^>]+>", rule)
    return r"\{\w+\}".join(re.escape(part) for part in parts) + r"(?![\w{/-])"


def test_the_example_file_has_a_line_for_every_setting_and_no_other() -> None:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    named = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert sorted(named) == sorted(NAMES)


def test_the_example_file_as_it_is_changes_nothing() -> None:
    assert load_settings({}, REPOSITORY / ".env.example") == load_settings({})


@pytest.mark.parametrize("name", NAMES)
def test_a_page_tells_every_setting(name: str) -> None:
    assert f"`{name}`" in page("docs/settings.md")


def test_the_page_of_settings_names_no_other() -> None:
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", page("docs/settings.md"), re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"\w+", row)) == sorted(NAMES)


def test_a_page_tells_every_route(app: Flask) -> None:
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.split(".")[-1] not in INTERNAL}
    assert rules
    assert sorted(rule for rule in rules if not re.search(in_words(rule), page("docs/api.md"))) == []


def test_a_page_tells_every_command() -> None:
    names = names_in(sms_commands())
    assert names
    assert sorted(name for name in names if not re.search(rf"\bsms {name}\b", page("docs/commands.md"))) == []


def test_a_page_tells_every_make_command() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    assert commands
    assert [name for name in commands if f"make {name}" not in page("docs/commands.md")] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(page("README.md").splitlines()) <= LONGEST_README
    linked = {(REPOSITORY / link.partition("#")[0]).resolve() for link in links(REPOSITORY / "README.md")}
    assert [path.name for path in PAGES if path.name != "README.md" and path not in linked] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert [link for link in links(path) if leads_nowhere(path, link)] == []


def test_every_promise_has_a_command_that_exists() -> None:
    rows = [row for row in page("docs/promises.md").splitlines() if row.startswith("| ")]
    commands = [row.split(" | ")[1] for row in rows if not row.startswith("| promise |")]
    assert commands
    assert [command for command in commands if not re.search(r"`(make|python -m benchmarks) ", command)] == []
    targets = re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", "".join(commands))) <= set(targets)
    given = [one.strip("'") for one in re.findall(r"ARGS=('[^']+'|[^`\s]+)", " ".join(commands))]
    files = [word for one in given for word in one.split() if "/" in word]
    assert len(files) >= len(given) > 0
    files += [f"benchmarks/{name}.py" for name in re.findall(r"-m benchmarks (\w+)", "".join(commands))]
    assert [name for name in files if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_in_a_page_exists(path: Path) -> None:
    group = sms_commands()
    commands = [inside_docker(command) for block in blocks(path, "bash") for command in shell_commands(block)]
    commands += [
        line.partition("=")[2]
        for block in blocks(path, "ini")
        for line in block.splitlines()
        if line.startswith("ExecStart=")
    ]
    ours = [command for command in commands if command.split()[0] not in OTHER_PROGRAMS]
    assert {command: why_not(group, command) for command in ours if why_not(group, command)} == {}


def test_code_quotes_only_documents_that_are_here() -> None:
    """A fact of the provider is cited by section, like "docs/africastalking.md, 4b"."""
    sections = set(re.findall(r"^##+ (\w+)\. ", page("docs/africastalking.md"), re.MULTILINE))
    cited: set[str] = set()
    for path in tracked("*.py"):
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"\bdocs/\w+\.md\b", text))
        if path != Path(__file__).resolve():
            assert [name for name in named if not (REPOSITORY / name).exists()] == [], path
            assert not re.search(r"\b(PROVIDER|DESIGN|CONTRACT)('s|\.md| section| §| draws)", text), path
        for one, other in re.findall(r"africastalking\.md, (\d\w?)(?: and (\d\w?))?", text):
            cited |= {one, other} - {""}
    assert "4b" in cited
    assert cited <= sections


def test_the_units_start_what_the_procfile_starts() -> None:
    units = "\n".join(blocks(REPOSITORY / "docs" / "operations.md", "ini"))
    worker = parse_procfile(page("Procfile")).processes["worker"]
    assert f"ExecStart=/srv/sms/.venv/bin/{worker}\n" in units
    assert "ExecStart=/srv/sms/.venv/bin/gunicorn " in units


def test_the_proxy_keeps_secrets_out_of_its_logs_and_sends_no_request_twice() -> None:
    (nginx,) = blocks(REPOSITORY / "docs" / "operations.md", "nginx")
    (log_format,) = re.findall(r"log_format.*", nginx)
    assert not re.search(r"\$(request|request_uri|args|query_string|http_referer)\b", log_format)
    for line in ("without_query;", " crit;", "proxy_next_upstream off;", "proxy_request_buffering on;"):
        assert line in nginx


@pytest.mark.parametrize(
    ("rule", "text", "is_told"),
    [
        ("/v1/messages/<int:message_id>", "`GET /v1/messages/{id}`", True),
        ("/v1/messages", "`GET /v1/messages/{id}`", False),
        ("/v1/messages", "`GET /v1/messages?to=`", True),
        ("/sms/", "`GET /sms/` says", True),
        ("/sms/", "/sms/twoway", False),
    ],
)
def test_the_search_for_a_route_takes_no_longer_one_for_it(rule: str, text: str, is_told: bool) -> None:
    assert bool(re.search(in_words(rule), text)) is is_told
