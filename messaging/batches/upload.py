"""A file of recipients taken in: durable, with a batch that says `receiving`, when `receive` returns.

The file itself is kept, as rows of pieces, and made into messages behind the answer: in the web process that
would take the interpreter away from callbacks, and a crash in the middle would lose what was promised.
The batch is written after the last piece, so that an upload cut off leaves no batch at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from sqlalchemy import Connection, insert, select

from messaging.access.actor import acting_name
from messaging.batch_statuses import CANCELLED
from messaging.batches import upload_store
from messaging.batches.rows import BatchRows
from messaging.messages import idempotency
from messaging.messages.accept import Acceptance, validate_on_unknown, validate_text, validate_times
from messaging.messages.lost_texts import digest_of_call
from messaging.messages.way_out import WayOut
from messaging.storage import rollback, tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database, lock_keys, wake_after_commit
from messaging.storage.new_ids import reserve_ids
from utils.csv_files import InvalidFile, check_encoding, header_of, read_header
from utils.errors import Conflict, InvalidInput
from utils.json_shapes import rfc3339
from utils.logs import request_id
from utils.money import Money, read_amount
from utils.phone_numbers import read_region
from utils.sender_ids import validate_sender
from utils.settings import Settings
from utils.uploaded_files import as_csv

ROUTE = "batches"
LONGEST_NAME = 200
LONGEST_MONEY = 100


SAME_WITHIN = timedelta(hours=24)


class AlreadySent(Conflict):
    """`details`: the earlier send's `id`, `name` and `created_at`. Whatever it is sent from: people get it twice."""

    code = "already_sent"
    sentence = "This file was sent with this text within the last day"


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """As a caller gave it. `text` may hold `{{column}}`; `max_cost` is written like AT's money, `KES 5000.00`,
    or as the API's, in JSON."""

    text: str
    sender_id: str | None = None
    name: str | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    on_unknown: str = "hold"
    max_cost: str | None = None
    phone_column: str | None = None
    max_refused: float | None = None
    # Of a workbook. It is no part of the request's mark: another sheet has another content.
    sheet: str | None = None
    # Two letters, instead of DEFAULT_REGION.
    default_region: str | None = None

    def as_json(self) -> list[Any]:
        times = [None if at is None else at.isoformat() for at in (self.send_at, self.expires_at)]
        # Only where it is given: a key of before it existed still fits its request.
        chosen = [] if self.phone_column is None else [self.phone_column]
        chosen += [] if self.max_refused is None else [f"max_refused {self.max_refused}"]
        chosen += [] if self.default_region is None else [f"default_region {self.default_region}"]
        return [self.text, self.sender_id, self.name, *times, self.on_unknown, self.max_cost, *chosen]


def receive(
    settings: Settings,
    database: Database,
    request: BatchRequest,
    file: BinaryIO,
    idempotency_key: str | None = None,
    *,
    is_mine: bool = False,
    may_repeat: bool = True,
) -> Acceptance:
    """`file`: at its beginning, and it can seek. `is_mine`: the caller imports it too, and where it dies the batch
    is cancelled, for whoever typed the command will type it again. `may_repeat`: False refuses what was sent
    within the last day.

    The body is `{"id", "status": "receiving"}`. Raises InvalidInput (InvalidFile, EmptyMessage …), KeyReused,
    AlreadySent, Recovering.
    """
    with as_csv(file, request.sheet) as plain:
        return _receive(
            settings, database, request, plain, idempotency_key, is_mine=is_mine, may_repeat=may_repeat
        )


def sent_before(
    database: Database, text: str, file: BinaryIO, sheet: str | None = None
) -> dict[str, Any] | None:
    """The send of the last day that had this file and text: `id`, `name`, `created_at`; None where there is none."""
    with as_csv(file, sheet) as plain:
        digest = _content_digest(text, _digest(plain))
    file.seek(0)
    return _find_sent_before(database, digest)


def is_answered(database: Database, request: BatchRequest, file: BinaryIO, idempotency_key: str) -> bool:
    """Whether `receive` would only repeat its answer to this key. Raises KeyReused, InvalidInput."""
    with as_csv(file, request.sheet) as plain:
        mark = _mark(request, _digest(plain))
    file.seek(0)
    return _earlier(database, idempotency_key, mark) is not None


def _find_sent_before(database: Database, content: str) -> dict[str, Any] | None:
    with database.read() as connection:
        return _sent_before(connection, content)


def _receive(
    settings: Settings,
    database: Database,
    request: BatchRequest,
    file: BinaryIO,
    idempotency_key: str | None,
    *,
    is_mine: bool,
    may_repeat: bool,
) -> Acceptance:
    max_cost = _validate(settings, request, file)
    file_digest = _digest(file)
    content = _content_digest(request.text, file_digest)
    mark = _mark(request, file_digest)
    # Before it is stored for nothing; the write asks again, with a lock. And before the key: of a call that ends
    # meanwhile, with the same key, the answer is given again.
    sent = None if may_repeat else _find_sent_before(database, content)
    answered = None if idempotency_key is None else _earlier(database, idempotency_key, mark)
    if answered is not None:
        return answered
    _refuse_repeated(sent)
    upload_id = upload_store.store(database, _pieces(file))
    with _forgetting(database, upload_id), database.write(settled=True) as connection:
        now = wall_clock(connection)
        identity = rollback.require(connection, now)
        earlier = None
        if idempotency_key is not None:
            earlier = idempotency.begin(connection, ROUTE, idempotency_key, mark, now)
        if earlier is None:
            validate_times(request.send_at, request.expires_at, now)
            if not may_repeat:
                _require_new(connection, content)
            call = None if idempotency_key is None else digest_of_call(identity, ROUTE, idempotency_key)
            about = max_cost, upload_id, now, is_mine, content, call
            body = _write(settings, connection, request, *about)
            if idempotency_key is not None:
                idempotency.finish(connection, ROUTE, idempotency_key, body)
            return Acceptance(body)
    upload_store.forget(database, upload_id)
    return Acceptance(earlier.answer or {}, is_replay=True)


@contextmanager
def _forgetting(database: Database, upload_id: str) -> Iterator[None]:
    """A file that was sent before is not kept a second time."""
    try:
        yield
    except AlreadySent:
        upload_store.forget(database, upload_id)
        raise


def default_template(file: BinaryIO, phone_column: str | None = None, sheet: str | None = None) -> str | None:
    """For a file that brings its texts: the placeholder of its column `text` or `message`, None without one."""
    with as_csv(file, sheet) as plain:
        names = header_of(plain, phone_column).names
    return next((f"{{{{{name}}}}}" for name in ("text", "message") if name in names), None)


def validate(database: Database, request: BatchRequest) -> None:
    """What `receive` would refuse whatever the file is. Raises InvalidInput."""
    _validate_fields(request)
    with database.read() as connection:
        validate_times(request.send_at, request.expires_at, wall_clock(connection))


def _validate_fields(request: BatchRequest) -> Money | None:
    validate_text(request.text)
    validate_on_unknown(request.on_unknown)
    validate_sender(request.sender_id)
    if request.name is not None and (len(request.name) > LONGEST_NAME or "\0" in request.name):
        raise InvalidInput(f"A batch's name has at most {LONGEST_NAME} characters", field="name")
    read_region(request.default_region)
    return None if request.max_cost is None else _read_max_cost(request.max_cost)


def _validate(settings: Settings, request: BatchRequest, file: BinaryIO) -> Money | None:
    """Everything that can be known before a row is read."""
    max_cost = _validate_fields(request)
    file.seek(0)
    beginning = file.read(upload_store.PIECE_BYTES)
    if not beginning.strip():
        raise InvalidFile("The file is empty", code="empty_file", field="file")
    region = read_region(request.default_region) or settings.default_region
    way_out = WayOut.of(settings, request.sender_id or settings.at_sender_id)
    BatchRows(request.text, read_header(beginning, request.phone_column), region, way_out)
    return max_cost


def _read_max_cost(text: str) -> Money:
    found = read_amount(_as_words(text))
    if found is None:
        raise InvalidInput(
            "max_cost is an amount above 0 behind its currency, like KES 5000.00",
            code="invalid_money",
            field="max_cost",
        )
    return found


def _as_words(text: str) -> str:
    """`{"amount": "5000.00", "currency": "KES"}`, as answers write money, in AT's way; anything else as it is."""
    try:
        found = json.loads(text[:LONGEST_MONEY])
    except ValueError:
        return text
    is_money = isinstance(found, dict) and set(found) == {"amount", "currency"}
    return f"{found['currency']} {found['amount']}" if is_money else text


def _digest(file: BinaryIO) -> str:
    """Of the whole file, once all of it is known to be UTF-8."""
    digest = hashlib.sha256()
    for piece in check_encoding(_pieces(file)):
        digest.update(piece)
    return digest.hexdigest()


def _mark(request: BatchRequest, file_digest: str) -> bytes:
    return idempotency.fingerprint([*request.as_json(), file_digest])


def _content_digest(text: str, file_digest: str) -> str:
    return hashlib.sha256(f"{file_digest}\0{text}".encode()).hexdigest()


def _require_new(connection: Connection, content: str) -> None:
    # Two that come at once: the second sees the first.
    lock_keys(connection, [f"content:{content}"])
    _refuse_repeated(_sent_before(connection, content))


def _refuse_repeated(earlier: dict[str, Any] | None) -> None:
    if earlier is not None:
        raise AlreadySent(
            f"This file was sent with this text at {earlier['created_at']}: say that you mean it",
            field="again",
            details=earlier,
        )


def _sent_before(connection: Connection, content: str) -> dict[str, Any] | None:
    since = wall_clock(connection) - SAME_WITHIN
    same = tables.batches.c.content_digest == content, tables.OF_CONTENT, tables.batches.c.created_at > since
    columns = tables.batches.c.id, tables.batches.c.name, tables.batches.c.created_at
    statement = select(*columns).where(*same, tables.batches.c.status != CANCELLED)
    row = connection.execute(statement.order_by(tables.batches.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else {"id": row.id, "name": row.name, "created_at": rfc3339(row.created_at)}


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(upload_store.PIECE_BYTES):
        yield piece


def _earlier(database: Database, key: str, mark: bytes) -> Acceptance | None:
    """The answer to an earlier call, without the file being stored again. Raises KeyReused."""
    with database.read() as connection:
        earlier = idempotency.look(connection, ROUTE, key, mark)
    if earlier is None or earlier.answer is None:
        return None
    return Acceptance(earlier.answer, is_replay=True)


def _write(
    settings: Settings,
    connection: Connection,
    request: BatchRequest,
    max_cost: Money | None,
    upload_id: str,
    now: datetime,
    is_mine: bool,
    content: str,
    call: str | None,
) -> dict[str, Any]:
    batch_id = reserve_ids(connection, tables.batches, 1)[0]
    row = {
        "id": batch_id,
        "name": request.name,
        "status": "receiving",
        "template": request.text,
        "sender_id": request.sender_id or settings.at_sender_id,
        "send_at": request.send_at,
        "expires_at": request.expires_at,
        "max_cost_micros": None if max_cost is None else max_cost.micros,
        "max_cost_currency": None if max_cost is None else max_cost.currency,
        "on_unknown": request.on_unknown,
        "upload_id": upload_id,
        "phone_column": request.phone_column,
        "default_region": read_region(request.default_region),
        "max_refused": request.max_refused,
        "reason": tables.READ_BY_COMMAND if is_mine else None,
        "importer_seen_at": steady(connection, now) if is_mine else None,
        "content_digest": content,
        "created_at": now,
        "created_by": acting_name(),
        "call": call,
        "request_id": request_id.get(),
    }
    connection.execute(insert(tables.batches).values(**row))
    wake_after_commit(connection)
    return {"id": batch_id, "status": "receiving"}
