"""Who is alive: one row per worker process, written every few seconds, read by `/readyz` and the doctor."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select

from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.upsert import insert_for

INTERVAL = timedelta(seconds=5)
LATELY = timedelta(seconds=30)


def beat(database: Database, worker: str) -> None:
    with database.write() as connection:
        now = database.now(connection)
        statement = insert_for(connection, tables.heartbeats).values(worker=worker, seen_at=now)
        statement = statement.on_conflict_do_update(
            index_elements=[tables.heartbeats.c.worker], set_={"seen_at": now}
        )
        connection.execute(statement)


def is_worker_alive(database: Database) -> bool:
    with database.read() as connection:
        latest = connection.execute(select(func.max(tables.heartbeats.c.seen_at))).scalar()
        return latest is not None and database.now(connection) - latest < LATELY
