"""What the resources of the API share: operation names, page size, the answer to a send, a phone field."""

from __future__ import annotations

from flask import Response, jsonify
from flask_openapi.blueprint import APIBlueprint

from messaging.messages import accept
from routes.api.models import ErrorAnswer
from routes.guards import check_api_key
from routes.service import current_service
from utils.errors import InvalidPhone
from utils.phone_numbers import read_query_phone

CALLERS = "Holders of an API key."
DEFAULT_LIMIT = 50


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
    response = jsonify(answer.body)
    if answer.is_replay:
        response.headers["Idempotent-Replay"] = "true"
    return response, 202


def read_phone_field(phone: str, field: str) -> str:
    """E.164. Raises InvalidPhone that names the field."""
    try:
        return read_query_phone(phone, current_service().settings.default_region).e164
    except InvalidPhone as error:
        raise InvalidPhone(error.message, code=error.code, field=field) from None
