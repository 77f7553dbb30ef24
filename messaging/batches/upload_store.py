"""Uploaded files as rows of pieces: durable before the answer, and within reach of a worker on another machine.

A file on disk would be neither on PostgreSQL with several machines. A piece is a transaction of its own, so
that callbacks come in between two; one that belongs to no batch is an upload that was cut off.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import BinaryIO, cast

from sqlalchemy import delete, func, insert, select

from messaging.storage import tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database

PIECE_BYTES = 256 * 1024
# An upload that takes longer than this from first piece to last has lost its caller.
ABANDONED_AFTER = timedelta(hours=1)
_PIECES_PER_DELETE = 8


def store(database: Database, pieces: Iterable[bytes]) -> str:
    """The id of what is stored. A caller that fails afterwards leaves pieces that `forget_abandoned` removes."""
    upload_id = secrets.token_hex(16)
    for position, content in enumerate(pieces):
        with database.write() as connection:
            row = {
                "upload_id": upload_id,
                "position": position,
                "content": content,
                "stored_at": steady(connection, wall_clock(connection)),
            }
            connection.execute(insert(tables.upload_pieces).values(**row))
    return upload_id


def read(database: Database, upload_id: str) -> BinaryIO:
    """From the beginning, one piece in memory at a time."""
    return cast(BinaryIO, io.BufferedReader(_Pieces(database, upload_id), PIECE_BYTES))


def size(database: Database, batch_id: int) -> int:
    """Of a batch's file in bytes, to within a piece: for a progress bar."""
    mine = tables.batches.c.upload_id == tables.upload_pieces.c.upload_id
    statement = (
        select(func.count()).select_from(tables.upload_pieces).where(mine, tables.batches.c.id == batch_id)
    )
    with database.read() as connection:
        return connection.execute(statement).scalar_one() * PIECE_BYTES


def forget(database: Database, upload_id: str) -> None:
    """A few pieces at a time: the whole of a large file at once would hold up the callbacks."""
    while True:
        with database.write() as connection:
            some = (
                select(tables.upload_pieces.c.position)
                .where(tables.upload_pieces.c.upload_id == upload_id)
                # From the end: as long as the first is there, `forget_abandoned` finds what is left.
                .order_by(tables.upload_pieces.c.position.desc())
                .limit(_PIECES_PER_DELETE)
            )
            positions = list(connection.execute(some).scalars())
            connection.execute(
                delete(tables.upload_pieces).where(
                    tables.upload_pieces.c.upload_id == upload_id,
                    tables.upload_pieces.c.position.in_(positions),
                )
            )
        if len(positions) < _PIECES_PER_DELETE:
            return


def forget_abandoned(database: Database) -> int:
    """Uploads cut off before their batch was written, and those of batches that are read or given up."""
    waiting = select(tables.batches.c.upload_id).where(
        tables.RECEIVING, tables.batches.c.upload_id.is_not(None)
    )
    with database.read() as connection:
        before = steady(connection, wall_clock(connection)) - ABANDONED_AFTER
        statement = select(tables.upload_pieces.c.upload_id).where(
            tables.upload_pieces.c.position == 0,
            tables.upload_pieces.c.stored_at < before,
            tables.upload_pieces.c.upload_id.not_in(waiting),
        )
        found = list(connection.execute(statement).scalars())
    for upload_id in found:
        forget(database, upload_id)
    return len(found)


class _Pieces(io.RawIOBase):
    def __init__(self, database: Database, upload_id: str) -> None:
        self._database = database
        self._upload_id = upload_id
        self._position = 0
        self._given = 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(self._next_piece())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._given += count
        return count

    def tell(self) -> int:
        return self._given

    def _next_piece(self) -> bytes:
        statement = select(tables.upload_pieces.c.content).where(
            tables.upload_pieces.c.upload_id == self._upload_id,
            tables.upload_pieces.c.position == self._position,
        )
        with self._database.read() as connection:
            content = connection.execute(statement).scalar_one_or_none()
        self._position += 1
        return content or b""
