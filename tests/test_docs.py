"""Every setting, route and command stands where a person looks for it."""

import re
from pathlib import Path

import click
import pytest
from flask import Flask

from app import create_app
from utils.setting_types import REPOSITORY
from utils.settings import Settings, load_settings

NAMES = [name.upper() for name in Settings.model_fields]
INTERNAL = {"static"}


@pytest.fixture(scope="module")
def readme() -> str:
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


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
def test_the_readme_tells_every_setting(readme: str, name: str) -> None:
    assert f"`{name}`" in readme


def test_the_readme_tells_every_route(readme: str, app: Flask) -> None:
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.split(".")[-1] not in INTERNAL}
    assert rules
    assert sorted(rule for rule in rules if not re.search(in_words(rule), readme)) == []


def test_the_readme_tells_every_command(readme: str, app: Flask) -> None:
    group = app.cli.commands["sms"]
    assert isinstance(group, click.Group)
    assert sorted(name for name in group.commands if not re.search(rf"\bsms {name}\b", readme)) == []


def test_the_readme_tells_every_make_command(readme: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    assert commands
    assert [name for name in commands if f"make {name}" not in readme] == []


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
