"""Every error as JSON, in the shape of its caller: `{"error": sentence, "code": word}` for the routes under `/sms`,
`{"error": {"code", "message", "field"?, "details"?}}` under `/v1`."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from flask import Flask, Response, jsonify, request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import HTTPException

from messaging.access.login_throttle import TooManyTries
from messaging.access.send_throttle import RateLimited
from messaging.messages.idempotency import KeyReused
from messaging.operations.health import STORAGE_ERRORS
from messaging.operations.outages import store_of
from messaging.sending.triggers import RecipientsRejected
from routes.unknown_fields import explain_unknown, fields_of
from utils import errors
from utils.errors import InvalidInput, ServiceError, StorageUnavailable
from utils.logs import request_id

API_PREFIX = "/v1/"
INTERNAL_ERROR = 500
# The first class that fits decides.
HTTP_STATUSES: tuple[tuple[type[ServiceError], int], ...] = (
    (KeyReused, 422),
    (RecipientsRejected, 422),
    (errors.InvalidInput, 400),
    (TooManyTries, 429),
    (errors.Unauthorised, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (RateLimited, 429),
    (errors.Busy, 503),
    (errors.StorageUnavailable, 503),
    (errors.WitnessUnwritable, 503),
    (errors.Recovering, 503),
    (errors.AcceptanceUnknown, 503),
    (errors.OutcomeUnknown, 504),
    (errors.ProviderError, 502),
)
SENTENCES = {404: "There is no such route here", 405: "This route does not take that method"}
UNKNOWN_FIELD = "extra_forbidden"
NO_OBJECT = "The body has to be a JSON object, sent as Content-Type: application/json"
RETRY_AFTER_SECONDS = {"busy": 2, "storage_unavailable": 10, "witness_unwritable": 10, "recovering": 10}

logger = logging.getLogger(__name__)


def register_error_handlers(app: Flask) -> None:
    app.register_error_handler(ServiceError, answer_service_error)
    app.register_error_handler(HTTPException, answer_http_error)
    app.register_error_handler(Exception, answer_unexpected)
    for error in STORAGE_ERRORS:
        app.register_error_handler(error, answer_storage_error)


def status_of(error: ServiceError) -> int:
    """One that no caller can mend is logged."""
    status = next((number for kind, number in HTTP_STATUSES if isinstance(error, kind)), INTERNAL_ERROR)
    if status == INTERNAL_ERROR:
        logger.error("a request failed", exc_info=error)
    return status


def answer_service_error(error: ServiceError) -> Response:
    status = status_of(error)
    answer = _answer(status, error.code, error.message, error.field, _details(error))
    wait_seconds = RETRY_AFTER_SECONDS.get(error.code) or getattr(error, "retry_after", None)
    # AT may send Retry-After with an answer that leaves open what it sent. Our caller must not be told to retry.
    if wait_seconds and not isinstance(error, errors.OutcomeUnknown):
        answer.headers["Retry-After"] = str(math.ceil(wait_seconds))
    if isinstance(error, errors.Unauthorised):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def answer_http_error(error: HTTPException) -> Response:
    """What Flask itself refuses: 404, 405, 413, 415 … Its headers (`Allow`) are kept."""
    status = error.code or INTERNAL_ERROR
    word = re.sub(r"\W+", "_", error.name).lower()
    answer = _answer(status, word, SENTENCES.get(status) or error.description or error.name)
    for name, value in error.get_headers(request.environ):
        if name.lower() != "content-type":
            answer.headers[name] = value
    return answer


def answer_storage_error(error: Exception) -> Response:
    return answer_service_error(explain_outage(error))


def explain_outage(error: Exception) -> StorageUnavailable:
    # In an outage the first line stands for all (messaging.operations.outages); else without the traceback.
    is_outage = store_of(error) is not None
    note = {"error": str(error).partition("\n")[0]}
    logger.error("the database cannot be used", exc_info=error if is_outage else None, extra=note)
    return StorageUnavailable()


def answer_unexpected(error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    sentence = "Something went wrong here; the log has it under this request id"
    return _answer(INTERNAL_ERROR, "internal_error", sentence, details={"request_id": request_id.get()})


def refuse_invalid_request(error: ValidationError) -> Response:
    """flask-openapi's callback: the first thing wrong is named, all are listed. Raises InvalidInput."""
    told = error.errors(include_url=False, include_input=False, include_context=False)
    # That `message` is not known explains why `text` is missing, and not the other way round.
    told.sort(key=lambda one: one["type"] != UNKNOWN_FIELD)
    found = [
        {"field": ".".join(str(part) for part in one["loc"]), "message": _sentence(one, error.title)}
        for one in told
    ]
    first = found[0]
    raise InvalidInput(
        first["message"],
        code="invalid_request",
        field=first["field"] or None,
        details={"errors": found} if len(found) > 1 else None,
    )


def _sentence(error: ErrorDetails, model_name: str) -> str:
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == UNKNOWN_FIELD:
        return explain_unknown(name, fields_of(model_name))
    if error["type"] == "missing":
        return f"`{name}` is missing"
    if error["type"] == "model_type":  # its own sentence names a class of ours
        return "A JSON object is needed here" if error["loc"] else NO_OBJECT
    return error["msg"].removeprefix("Value error, ")


def _details(error: ServiceError) -> dict[str, Any]:
    details = dict(error.details)
    response = getattr(error, "response", None)
    if response is not None:
        details["response"] = response
    if isinstance(error, errors.ProviderError):
        details["reason"] = error.reason
    return details


def _answer(
    status: int, code: str, message: str, field: str | None = None, details: dict[str, Any] | None = None
) -> Response:
    body: dict[str, Any]
    if request.path.startswith(API_PREFIX):
        inner: dict[str, Any] = {"code": code, "message": message}
        inner |= {"field": field} if field else {}
        inner |= {"details": details} if details else {}
        body = {"error": inner}
    else:
        # A detail never takes the place of the sentence.
        body = {"error": message, "code": code} | (details or {}) | {"error": message, "code": code}
    answer = jsonify(body)
    answer.status_code = status
    return answer
