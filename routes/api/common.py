"""What the resources of the API share: operation names, page size, the answer to a send, a phone field."""

from __future__ import annotations

from flask import Response, jsonify

from messaging.messages import accept
from routes.service import current_service
from utils.errors import InvalidPhone
from utils.phone_numbers import read_phone

DEFAULT_LIMIT = 50


def name_operation(*, name: str, path: str, method: str) -> str:  # noqa: ARG001 (as flask-openapi calls it)
    return name


def answer_send(answer: accept.SendAnswer) -> tuple[Response, int]:
    response = jsonify(answer.body)
    if answer.is_replay:
        response.headers["Idempotent-Replay"] = "true"
    return response, 202


def read_phone_field(phone: str, field: str) -> str:
    """E.164. Raises InvalidPhone that names the field."""
    try:
        return read_phone(phone, current_service().settings.default_region).e164
    except InvalidPhone as error:
        raise InvalidPhone(error.message, code=error.code, field=field) from None
