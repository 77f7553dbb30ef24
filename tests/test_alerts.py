"""docs/alerts.yml against what `/metrics` really answers; Prometheus' own checks where promtool is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


@dataclass(frozen=True)
class Course:
    """What the metrics of an hour may look like, one value a minute, in promtool's words: `0+2x30` grows by two."""

    series: dict[str, str]
    minute: int
    is_alarming: bool = True
    # Those that the alert has beside its own.
    labels: dict[str, str] = field(default_factory=dict)


SEEN, OTHER_SEEN = (f'sms_worker_last_seen_timestamp_seconds{{worker="{name}"}}' for name in ("a", "b"))
SENT, UNKNOWN = 'sms_messages_total{status="accepted"}', 'sms_messages_total{status="unknown"}'
ANSWERED, LOST = 'sms_posts_total{result="answered"}', 'sms_posts_total{result="read_timeout"}'
QUICK, SLOW, ALL = (f'sms_answer_seconds_bucket{{le="{bound}"}}' for bound in ("10", "30", "+Inf"))
REPORTED = 'sms_last_callback_timestamp_seconds{kind="report"}'
QUEUED, RECOVERING = "sms_oldest_queued_seconds", "sms_recovering"
COURSES: dict[str, list[Course]] = {
    "SmsNoWorker": [
        Course({SEEN: "0x10"}, 5),
        Course({"up": "1x10"}, 5),
        Course({SEEN: "0x10", OTHER_SEEN: "0+60x10"}, 5, is_alarming=False),
    ],
    "SmsNotScraped": [
        Course({"up": "1x10"}, 6),
        Course({'sms_build_info{version="1"}': "1x10"}, 6, is_alarming=False),
    ],
    "SmsQueueWaits": [
        Course({QUEUED: "601x10", RECOVERING: "0x10"}, 6),
        Course({QUEUED: "601x10", RECOVERING: "0x10"}, 4, is_alarming=False),
        Course({QUEUED: "600x10", RECOVERING: "0x10"}, 6, is_alarming=False),
        Course({QUEUED: "601x10", RECOVERING: "1x10"}, 6, is_alarming=False),
    ],
    "SmsPaused": [Course({"sms_pauses": "1x10"}, 6), Course({"sms_pauses": "0x10"}, 6, is_alarming=False)],
    "SmsWitnessUnwritable": [
        Course({"sms_witness_unwritable": "1x10"}, 2),
        Course({"sms_witness_unwritable": "0x10"}, 2, is_alarming=False),
    ],
    "SmsRecovering": [
        Course({RECOVERING: "1x10"}, 6),
        Course({RECOVERING: "1x3 0x10"}, 6, is_alarming=False),
    ],
    "SmsUnknownOutcomes": [
        Course({UNKNOWN: "0+2x30"}, 20, labels={"status": "unknown"}),
        Course({UNKNOWN: "0+1x30", SENT: "0+900x30"}, 20, is_alarming=False),
    ],
    "SmsPostsFail": [
        Course({ANSWERED: "0+8x60", LOST: "0+2x60"}, 30),
        Course({ANSWERED: "0+19x60", LOST: "0+1x60"}, 30, is_alarming=False),
    ],
    "SmsAnswersSlow": [
        Course({QUICK: "0+9x60", SLOW: "0+10x60", ALL: "0+10x60"}, 35),
        Course({QUICK: "0+10x60", SLOW: "0+10x60", ALL: "0+10x60"}, 35, is_alarming=False),
    ],
    "SmsNoReports": [
        Course({REPORTED: "0x150", SENT: "0+5x150"}, 90),
        Course({REPORTED: "0+60x150", SENT: "0+5x150"}, 90, is_alarming=False),
        Course({REPORTED: "0x150", SENT: "0+1x150"}, 90, is_alarming=False),
    ],
    "SmsReportsLate": [
        Course({"sms_oldest_received_seconds": "61x10"}, 6),
        Course({"sms_oldest_received_seconds": "60x10"}, 6, is_alarming=False),
    ],
    "SmsCallbacksUnapplied": [
        Course({"sms_unapplied_callbacks": "1x100"}, 61),
        Course({"sms_unapplied_callbacks": "1x50 0x50"}, 61, is_alarming=False),
    ],
    "SmsHeld": [
        Course({'sms_held{kind="message"}': "0x30", 'sms_held{kind="batch"}': "1x30"}, 16),
        Course({'sms_held{kind="message"}': "0x30"}, 16, is_alarming=False),
    ],
    "SmsBalanceLow": [
        Course({'sms_balance{currency="KES"}': "99x5"}, 1, labels={"currency": "KES"}),
        Course({'sms_balance{currency="KES"}': "100x5"}, 1, is_alarming=False),
    ],
    "SmsWrongTokens": [
        Course({"sms_refused_callbacks_total": "0+2x30"}, 20),
        Course({"sms_refused_callbacks_total": "0+1x30"}, 20, is_alarming=False),
    ],
    "SmsWrongKeys": [
        Course({"sms_refused_keys_total": "0+2x30"}, 20),
        Course({"sms_refused_keys_total": "0+1x30"}, 20, is_alarming=False),
    ],
    "SmsForwardingStopped": [
        Course({"sms_forward_paused": "1x30", "sms_forward_waiting": "0x30"}, 16),
        Course({"sms_forward_paused": "0x30", "sms_forward_waiting": "1001x30"}, 16),
        Course({"sms_forward_paused": "0x30", "sms_forward_waiting": "1000x30"}, 16, is_alarming=False),
    ],
}


def rule_test(rule: dict[str, Any], course: Course) -> dict[str, Any]:
    """As promtool wants it."""
    alarm = {"exp_labels": rule["labels"] | course.labels, "exp_annotations": rule["annotations"]}
    expected = {
        "eval_time": f"{course.minute}m",
        "alertname": rule["alert"],
        "exp_alerts": [alarm] if course.is_alarming else [],
    }
    series = [{"series": name, "values": values} for name, values in course.series.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": [expected]}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


@needs_promtool
def test_prometheus_takes_the_alerts() -> None:
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_course_that_raises_it_and_one_that_does_not(families: dict[str, Any]) -> None:
    assert COURSES.keys() == {rule["alert"] for rule in rules()}
    assert {
        name for name, courses in COURSES.items() if len({one.is_alarming for one in courses}) < 2
    } == set()
    series = {name for courses in COURSES.values() for one in courses for name in one.series}
    assert {name.partition("{")[0] for name in series} - {"up"} <= exposed(families)


@needs_promtool
@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_is_raised_by_what_it_is_for_and_by_nothing_else(
    rule: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "alerts_test.yml"
    tests = [rule_test(rule, course) for course in COURSES[rule["alert"]]]
    # JSON is YAML, too.
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
