"""The JSON API: files taken in as batches, quoted beforehand, and what became of them as files again."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Response, jsonify
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.request_body import RequestBody

from messaging.batches import bill, exports, progress, upload
from messaging.batches import quote as quotes
from routes.api.batch_models import BatchPage
from routes.api.batches import BATCHES, BatchPath
from routes.api.common import DEFAULT_LIMIT, create_blueprint
from routes.api.messages import MESSAGES
from routes.api.models import ErrorAnswer, Query
from routes.api.send_models import IdempotencyHeader
from routes.api.upload_models import Bill, QuoteAnswer, QuoteFile, QuoteMessages, ReceivedBatch, UploadBatch
from routes.expensive_calls import expensive_download, expensive_read
from routes.service import current_database, current_service
from routes.uploads import MULTIPART, begin_upload

CALLERS = "Holders of an API key."

uploads_api = create_blueprint("uploads", __name__)
uploads_api.before_request(begin_upload)


UPLOAD_ANSWERS: dict[str | int | HTTPStatus, Any] = {
    202: ReceivedBatch,
    400: ErrorAnswer,
    409: ErrorAnswer,
    413: ErrorAnswer,
    422: ErrorAnswer,
}
CSV_ANSWERS: dict[str | int | HTTPStatus, Any] = {
    200: {"description": "OK", "content": {"text/csv": {"schema": {"type": "string"}}}},
    404: ErrorAnswer,
}
SCHEMAS = "#/components/schemas"
QUOTE_BODY = RequestBody(
    required=True,
    content={
        "application/json": MediaType.model_validate({"schema": {"$ref": f"{SCHEMAS}/QuoteMessages"}}),
        MULTIPART: MediaType.model_validate({"schema": {"$ref": f"{SCHEMAS}/QuoteFile"}}),
    },
)


@uploads_api.post("/batches", tags=[BATCHES], responses=UPLOAD_ANSWERS)
def upload_batch(form: UploadBatch, header: IdempotencyHeader) -> tuple[Response, int]:
    """Takes in a CSV file of recipients. Durable when it answers; sent once all of it is read."""
    service, key = current_service(), header.idempotency_key
    about = form.as_request(), form.stream, key
    may_repeat = form.again is not False
    answer = upload.receive(service.settings, service.database, *about, may_repeat=may_repeat)
    response = jsonify(answer.body)
    if answer.is_replay:
        response.headers["Idempotent-Replay"] = "true"
    return response, 202


@uploads_api.get("/batches", tags=[BATCHES], responses={200: BatchPage, 400: ErrorAnswer})
def show_batches(query: Query) -> dict[str, Any]:
    """Batches, newest first. What one of them waits for stands in its own answer."""
    with expensive_read():
        return progress.list_batches(current_database(), query.cursor, query.limit or DEFAULT_LIMIT)


@uploads_api.post(
    "/quote",
    tags=[MESSAGES],
    request_body=QUOTE_BODY,
    responses={200: QuoteAnswer, 400: ErrorAnswer, 413: ErrorAnswer},
)
def quote(form: QuoteFile, body: QuoteMessages) -> dict[str, Any]:
    """Says what a send would come to, as messages (JSON) or as a batch (a form). Nothing is sent."""
    service = current_service()
    if body is None:
        given = form.as_request()
        about = (given.text, given.sender_id, given.phone_column, given.sheet, given.default_region)
        return quotes.quote_file(service.settings, service.database, form.stream, *about)
    with expensive_read():
        return quotes.quote_messages(service.settings, service.database, body.to, body.text, body.sender_id)


@uploads_api.get("/batches/<int:id>/bill", tags=[BATCHES], responses={200: Bill, 404: ErrorAnswer})
def show_bill(path: BatchPath) -> dict[str, Any]:
    """Parts and costs as we estimate them beside those that Africa's Talking billed."""
    with expensive_read():
        return bill.bill(current_database(), path.id)


@uploads_api.get("/batches/<int:id>/refused.csv", tags=[BATCHES], responses=CSV_ANSWERS)
def export_refused(path: BatchPath) -> Response:
    """The rows that were not taken: line, value, code and reason, and the file's own columns."""
    database = current_database()
    return expensive_download(lambda: exports.refused_csv(database, path.id), f"batch-{path.id}-refused.csv")


@uploads_api.get("/batches/<int:id>/duplicates.csv", tags=[BATCHES], responses=CSV_ANSWERS)
def export_duplicates(path: BatchPath) -> Response:
    """The rows whose number stood there before with the same text, as in `refused.csv`."""
    database = current_database()
    return expensive_download(
        lambda: exports.duplicates_csv(database, path.id), f"batch-{path.id}-duplicates.csv"
    )


@uploads_api.get("/batches/<int:id>/messages.csv", tags=[BATCHES], responses=CSV_ANSWERS)
def export_messages(path: BatchPath) -> Response:
    """All messages of a batch, in the order of its file."""
    database = current_database()
    return expensive_download(
        lambda: exports.messages_csv(database, path.id), f"batch-{path.id}-messages.csv"
    )


@uploads_api.get("/batches/<int:id>/undelivered.csv", tags=[BATCHES], responses=CSV_ANSWERS)
def export_undelivered(path: BatchPath) -> Response:
    """Those of its messages that are settled and not known to have arrived, as in `messages.csv`."""
    database = current_database()
    return expensive_download(
        lambda: exports.undelivered_csv(database, path.id), f"batch-{path.id}-undelivered.csv"
    )
