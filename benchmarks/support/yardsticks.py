"""What a service of ours is measured against: a bare Flask app on the same gunicorn, which promises nothing.

`form` parses the same form and answers. `insert` does so too, after one bare INSERT in a shared commit: the
least that "durable" can cost.
"""

from __future__ import annotations

from flask import Flask, Response, request
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, insert

from messaging.database import Database
from messaging.shared_commits import SharedCommits
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
    commits: SharedCommits[Fields, None] = SharedCommits(database, insert_bare)

    @app.post("/delivery-reports")
    def take_report() -> Response:
        commits.submit(read_form())
        return Response("OK", mimetype="text/plain")

    return app


def read_form() -> Fields:
    return {name: request.form.get(name) for name in FIELDS}


def insert_bare(connection: Connection, reports: list[Fields]) -> list[None]:
    connection.execute(INSERT, reports)
    return [None] * len(reports)
