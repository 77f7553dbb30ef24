"""docs/alerts.yml against what `/metrics` really answers; Prometheus' own check where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app import create_app
from messaging.storage import tables
from utils.setting_types import REPOSITORY
from utils.settings import Settings

ALERTS = REPOSITORY / "docs" / "alerts.yml"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alerts")
    app = create_app(Settings(database_url=f"sqlite:///{folder}/sms.db"))
    database = app.extensions["sms"].database
    with database.write() as connection:
        tables.metadata.create_all(connection)
    answer = app.test_client().get("/metrics").text
    yield {family.name: family for family in text_string_to_metric_families(answer)}
    database.close()


def exposed(families: dict[str, Any]) -> set[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket"], "gauge": [""]}
    return {f"{name}{end}" for name, family in families.items() for end in endings[family.type]}


def test_every_alert_asks_for_a_metric_that_there_is(families: dict[str, Any]) -> None:
    asked = {name for rule in rules() for name in re.findall(r"\bsms_\w+", rule["expr"])}
    assert asked
    assert asked - exposed(families) == set()


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_page_tells_every_metric(families: dict[str, Any]) -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    assert sorted(name for name in families if f"`{name}" not in page) == []


def test_names_follow_the_conventions_of_prometheus(families: dict[str, Any]) -> None:
    for name, family in families.items():
        assert re.fullmatch(r"sms_[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|minutes|micros)$", name)
        assert family.documentation


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_takes_the_alerts() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
