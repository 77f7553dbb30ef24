"""What the resources of the API share: operation names, page size, the answer to a send, a phone field."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from flask_openapi.blueprint import APIBlueprint

from messaging.messages import accept
from routes.api.models import ErrorAnswer
from routes.guards import check_api_key
from routes.service import current_service
from utils.errors import InvalidPhone
from utils.logs import ACCESS_NOTE
from utils.phone_numbers import read_query_phone

CALLERS = "Holders of an API key."
DEFAULT_LIMIT = 50
# Ids in a line of the access log.
MOST_LOGGED = 20


def create_blueprint(name: str, module: str) -> APIBlueprint:
    """The routes of one resource under `/v1`, each for holders of an API key."""
    blueprint = APIBlueprint(
        name,
        module,
        url_prefix="/v1",
        abp_security=[{"key": []}],
        abp_responses=dict.fromkeys((401, 403, 429, 503), ErrorAnswer),
        operation_id_callback=name_operation,
    )
    blueprint.before_request(check_api_key)
    return blueprint


def name_operation(*, name: str, path: str, method: str) -> str:  # noqa: ARG001 (as flask-openapi calls it)
    return name


def answer_send(answer: accept.Acceptance) -> tuple[Response, int]:
    about = {"batch_id": answer.body.get("batch_id"), "message_ids": _some_ids(answer.body)}
    request.environ.setdefault(ACCESS_NOTE, {}).update(about)
    response = jsonify(answer.body)
    if answer.is_replay:
        response.headers["Idempotent-Replay"] = "true"
    return response, 202


def _some_ids(body: dict[str, Any]) -> list[int]:
    """Of many the batch tells. An answer in a conversation is a message itself."""
    return [one["id"] for one in body.get("messages", [body])[:MOST_LOGGED]]


def read_phone_field(phone: str, field: str) -> str:
    """E.164. Raises InvalidPhone that names the field."""
    try:
        return read_query_phone(phone, current_service().settings.default_region).e164
    except InvalidPhone as error:
        raise InvalidPhone(error.message, code=error.code, field=field) from None
