"""Calling the app in a test, with the credentials a real caller has."""

from __future__ import annotations

from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from messaging.callbacks.received import apply_received
from messaging.service import Service

API_KEY = "a-key-of-the-tests"
TOKEN = "a-token-of-the-tests"


class Caller:
    def __init__(self, app: Flask) -> None:
        self._app = app

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> TestResponse:
        known = {"Authorization": f"Bearer {API_KEY}"} | (headers or {})
        return self._app.test_client().get(path, query_string=query or None, headers=known)

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> TestResponse:
        known = {"Authorization": f"Bearer {API_KEY}"} | (headers or {})
        return self._app.test_client().post(path, json=body, headers=known)

    def post_bytes(self, path: str, body: bytes, content_type: str) -> TestResponse:
        known = {"Authorization": f"Bearer {API_KEY}"}
        return self._app.test_client().post(path, data=body, content_type=content_type, headers=known)

    def callback(self, path: str, fields: dict[str, str] | bytes, token: str | None = TOKEN) -> TestResponse:
        query = {} if token is None else {"token": token}
        kind = "application/x-www-form-urlencoded"
        return self._app.test_client().post(path, query_string=query, data=fields, content_type=kind)

    def apply_reports(self) -> None:
        """The worker's part."""
        service: Service = self._app.extensions["sms"]
        apply_received(service.database, service.settings)

    def messages(self, **query: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get("/v1/messages", **query).json["items"]  # type: ignore[index]
        return items

    def message(self, message_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/messages/{message_id}").json  # type: ignore[assignment]
        return found

    def callbacks(self, **query: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get("/v1/callbacks", **query).json["items"]  # type: ignore[index]
        return items
