from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
from flask_openapi.openapi import OpenAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from messaging.messages.queue import NewMessage, enqueue
from messaging.operations import health
from messaging.storage import rollback, tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.support.callback_rows import move_time
from tests.support.web import Caller
from utils.version import VERSION


def samples(caller: Caller) -> dict[str, float]:
    families = text_string_to_metric_families(caller.get("/metrics").text)
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_alive_asks_nothing_of_anybody(app: OpenAPI) -> None:
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok", "version": VERSION})


def test_the_whole_service_is_well_once_a_worker_was_seen(caller: Caller, database: Database) -> None:
    before = caller.get("/healthz?worker=1")
    health.beat(database, "worker-1")
    after = caller.get("/healthz?worker=1")

    assert (before.status_code, after.status_code) == (503, 200)
    assert before.json is not None
    assert "none seen" in before.json["worker"]


def test_a_worker_that_stopped_is_told_and_takes_no_callback_away(caller: Caller, database: Database) -> None:
    before = caller.get("/readyz")
    health.beat(database, "worker-1")
    after = caller.get("/readyz")

    assert before.status_code == 200
    assert before.json is not None
    assert "none seen" in before.json["checks"]["worker"]
    assert after.status_code == 200
    assert after.json == {
        "status": "ready",
        "checks": {"database": "ok", "queue": "ok", "worker": "ok", "inbox": "ok"},
        "sending": {"witness": "ok", "recovery": "ok"},
        "oldest_report_seconds": 0.0,
    }


def test_a_recovery_and_a_witness_that_cannot_be_written_are_told_and_make_nobody_unready(
    caller: Caller, database: Database
) -> None:
    health.beat(database, "worker-1")
    with database.write() as connection:
        now = wall_clock(connection)
        rollback.open_recovery(connection, "restored", now)
        row = {"folder_id": "a", "host": "sms-1", "path": "/w", "seen_at": now, "problem": "No space left"}
        connection.execute(tables.witness_folders.insert().values(**row))
    answer = caller.get("/readyz")
    assert answer.status_code == 200
    assert answer.json is not None
    assert "sms-1:/w: No space left" in answer.json["sending"]["witness"]
    assert "nothing is sent yet" in answer.json["sending"]["recovery"]


def test_a_worker_that_fell_silent_is_told(caller: Caller, database: Database) -> None:
    health.beat(database, "worker-1")
    with database.write() as connection:
        long_ago = wall_clock(connection) - 2 * health.ALIVE_WITHIN
        connection.execute(update(tables.heartbeats).values(seen_at=long_ago))
    assert caller.get("/healthz?worker=1").status_code == 503


def test_a_dead_inbox_thread_is_told(app: OpenAPI, caller: Caller, database: Database) -> None:
    health.beat(database, "worker-1")
    receiver = app.extensions["sms"].callback_receiver
    receiver.start()
    assert caller.get("/readyz").status_code == 200
    receiver.stop()
    answer = caller.get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["checks"]["inbox"] != "ok"


@pytest.mark.parametrize(
    "queue_url", ["redis://127.0.0.1:1/0", "postgresql://nobody@127.0.0.1:1/none", "sqlite:///{folder}"]
)
def test_a_queue_that_does_not_answer_is_told(
    make_app: MakeApp, database: Database, tmp_path: Path, queue_url: str
) -> None:
    health.beat(database, "worker-1")
    answer = Caller(make_app(queue_url=queue_url.format(folder=tmp_path))).get("/readyz")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["checks"]["queue"] == "cannot be reached"


def test_what_is_wrong_names_no_host_and_no_user(make_app: MakeApp) -> None:
    app = make_app(queue_url="redis://somebody:secret@127.0.0.1:1/0")
    answer = app.test_client().get("/readyz")
    assert "secret" not in answer.text
    assert "127.0.0.1" not in answer.text


def test_without_its_database_the_service_is_alive_and_not_ready(make_app: MakeApp) -> None:
    app = make_app(database_url="postgresql://nobody@127.0.0.1:1/none")
    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["checks"]["database"] == "cannot be used"


def test_a_report_that_waits_for_the_worker_is_told_and_makes_nobody_unready(
    caller: Caller, database: Database
) -> None:
    health.beat(database, "worker-1")
    caller.callback("/sms/delivery-reports", {"id": "ATXid_nobodys", "status": "Success"})
    move_time(database, tables.callbacks, "received_at", timedelta(hours=1))
    answer = caller.get("/readyz")
    assert answer.status_code == 200
    assert answer.json is not None
    assert 3600 <= answer.json["oldest_report_seconds"] < 3700


def test_metrics_are_true_at_the_moment_of_asking(caller: Caller, database: Database) -> None:
    with database.write() as connection:
        enqueue(connection, [NewMessage("+254711000001", "text") for _ in range(3)])
        connection.execute(update(tables.messages).where(tables.messages.c.id == 1).values(status="unknown"))
    caller.callback("/sms/delivery-reports", {"id": "ATXid_nobodys", "status": "Success"})
    caller.apply_reports()
    caller.callback("/sms/delivery-reports", {"id": "ATXid_nobodys", "status": "Sent"})
    caller.callback("/sms/twoway", {"text": "without anything else"})
    caller.callback("/sms/twoway", {}, token="wrong")
    health.beat(database, "worker-1")

    found = samples(caller)

    assert found[f"sms_build_info{VERSION}"] == 1
    assert found["sms_sending"] == 0
    assert found["sms_messages_totaldelivered"] == 0
    assert 0 < found["sms_oldest_queued_seconds"] < 60
    assert found["sms_queue_depth"] == 2
    assert found["sms_unknown"] == 1
    assert found["sms_parked_reports"] == 1
    assert found["sms_quarantined_callbacks"] == 1
    assert found["sms_unapplied_callbacks"] == 0
    assert found["sms_received_callbacks"] == 1
    assert 0 < found["sms_oldest_received_seconds"] < 60
    assert found["sms_refused_callbacks_total"] == 1
    assert found["sms_pauses"] == 0
    assert time.time() - 60 < found["sms_worker_last_seen_timestamp_secondsworker-1"] <= time.time() + 1
    assert found["sms_posts_in_flightworker-1"] == 0
