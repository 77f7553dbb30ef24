"""What a service of ours is measured against: a bare Flask app on the same gunicorn, which promises nothing.

`form` parses a report's form and answers. `insert` does so too, after one bare INSERT in a shared commit: the
least that "durable" can cost. `rows` parses a send's JSON and inserts its rows.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, insert

from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.commit_thread import CommitThread
from messaging.storage.database import Database
from utils.settings import load_settings

FIELDS = ("id", "phoneNumber", "status", "failureReason", "networkCode", "retryCount")

metadata = MetaData()
bare_reports = Table(
    "bare_reports",
    metadata,
    Column("row", Integer, primary_key=True),
    *(Column(name, Text) for name in FIELDS),
)
INSERT = insert(bare_reports)
INSERT_MESSAGES = insert(tables.messages)

Fields = dict[str, str | None]


def create_form_app() -> Flask:
    app = Flask(__name__)

    @app.post("/delivery-reports")
    def take_report() -> Response:
        read_form()
        return Response("OK", mimetype="text/plain")

    return app


def create_insert_app() -> Flask:
    app = Flask(__name__)
    database = Database(load_settings().sqlalchemy_url)
    commits: CommitThread[Fields, None] = CommitThread(database, insert_bare)

    @app.post("/delivery-reports")
    def take_report() -> Response:
        commits.submit(read_form())
        return Response("OK", mimetype="text/plain")

    return app


def create_rows_app() -> Flask:
    app = Flask(__name__)
    database = Database(load_settings().sqlalchemy_url)

    @app.post("/v1/messages")
    def take_messages() -> tuple[dict[str, int], int]:
        asked = request.get_json()
        rows = message_rows(asked["to"], asked["text"], asked["sender_id"])
        with database.write() as connection:
            connection.execute(INSERT_MESSAGES, rows)
        return {"accepted": len(rows)}, 202

    return app


def message_rows(recipients: list[str], text: str, sender_id: str) -> list[dict[str, Any]]:
    now = utc_now()
    return [
        {
            "recipient": recipient,
            "text": text,
            "sender_id": sender_id,
            "origin": "api",
            "priority": 5,
            "status": "queued",
            "on_unknown": "hold",
            "due_at": now,
            "estimated_parts": 1,
            "created_at": now,
        }
        for recipient in recipients
    ]


def read_form() -> Fields:
    return {name: request.form.get(name) for name in FIELDS}


def insert_bare(connection: Connection, reports: list[Fields]) -> list[None]:
    connection.execute(INSERT, reports)
    return [None] * len(reports)
