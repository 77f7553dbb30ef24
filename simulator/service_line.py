"""One kept-alive connection from AT to the service's callback URLs."""

import http.client
import json
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

PATHS = {
    "inbound": "/sms/twoway",
    "report": "/sms/delivery-reports",
    "opt_out": "/sms/opt-out",
    "subscription": "/sms/subscription",
}
OK = 200
FORM = "application/x-www-form-urlencoded"


class ServiceLine:
    def __init__(self, service_url: str, token: str | None, timeout_seconds: float) -> None:
        service = urlsplit(service_url)
        host, port = service.hostname or "", service.port or 80
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        self._prefix = service.path.rstrip("/")
        self._query = f"?token={quote(token, safe='')}" if token else ""

    def post(self, kind: str, body: str, *, with_charset: bool = False) -> str:
        """The answer's status as text, or the name of the error that took its place."""
        content_type = f"{FORM}; charset=UTF-8" if with_charset else FORM
        url = f"{self._prefix}{PATHS[kind]}{self._query}"
        was_open = self._connection.sock is not None
        try:
            return self._post_once(url, body, content_type)
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            # A server may close an idle connection just as it is used again: that says nothing about the callback.
            if was_open and isinstance(error, ConnectionError):
                return self._post_on_new_connection(url, body, content_type)
            return type(error).__name__

    def _post_on_new_connection(self, url: str, body: str, content_type: str) -> str:
        try:
            return self._post_once(url, body, content_type)
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            return type(error).__name__

    def _post_once(self, url: str, body: str, content_type: str) -> str:
        self._connection.request("POST", url, body.encode(), {"Content-Type": content_type})
        answer = self._connection.getresponse()
        answer.read()
        return str(answer.status)

    def applied_reports(self, message_ids: Sequence[str]) -> set[tuple[str, str]]:
        """Id and word of those that the service has applied. AT never asks this: it is for the page."""
        asked = "&".join(f"id={quote(one, safe='')}" for one in message_ids)
        separator = "&" if self._query else "?"
        url = f"{self._prefix}{PATHS['report']}{self._query}{separator}{asked}"
        try:
            self._connection.request("GET", url)
            answer = self._connection.getresponse()
            told = json.loads(answer.read()) if answer.status == OK else {"applied": []}
            return {(one["id"], one["status"]) for one in told["applied"]}
        except (http.client.HTTPException, OSError, ValueError, LookupError, TypeError):
            return set()

    def close(self) -> None:
        self._connection.close()
