"""Posts events to the operator's own system: signed, within ten seconds, to no address that was not checked.

A redirect is a failure, for following it would carry the event to a place that nobody named. Proxies of the
environment are not used: they would look the name up themselves. The answer's body is read only so that the
connection can serve again, and never further than its cap.
"""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from utils.deadlines import ClockedSocket, Deadline
from utils.public_hosts import AddressNotAllowed, Resolve, check_addresses, resolve_host
from utils.settings_model import Settings
from utils.webhook_signing import signature_headers

DEADLINE_SECONDS = 10.0
CONNECT_SECONDS = 5.0
LONGEST_ANSWER_BYTES = 64 * 1024
GONE, BUSY = 410, 429
# What is written as it is; a request line takes nothing that is not ASCII.
URL_CHARACTERS = "!$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """`status` is None where none came; `problem` says in words why it does not count as accepted, else None."""

    status: int | None
    problem: str | None

    @property
    def is_accepted(self) -> bool:
        return self.problem is None

    @property
    def is_overloaded(self) -> bool:
        """Nothing is wrong with the event: the receiver is down, or asks for a break."""
        return not self.is_accepted and (self.status is None or self.status == BUSY or self.status >= 500)

    @property
    def is_gone(self) -> bool:
        """The receiver says that it wants nothing more."""
        return self.status == GONE


class WebhookClient:
    """One receiver. Safe for several threads, each with a `line()` of its own."""

    def __init__(
        self,
        url: str,
        secrets: tuple[str, ...],
        *,
        allow_private: bool = False,
        deadline_seconds: float = DEADLINE_SECONDS,
        resolve: Resolve = resolve_host,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if is_tls else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.target = quote(target, safe=URL_CHARACTERS)
        self.tls = (tls or ssl.create_default_context()) if is_tls else None
        self.allow_private = allow_private
        self.deadline_seconds = deadline_seconds
        self.resolve = resolve
        self._secrets = secrets
        self._clock = clock
        self._headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "sms-service (webhooks)",
            **_authorization(parts.username, parts.password),
        }

    @classmethod
    def from_settings(cls, settings: Settings) -> WebhookClient | None:
        """None where nothing is to be forwarded."""
        if settings.forward_url is None or settings.forward_secret is None:
            return None
        return cls(
            settings.forward_url, settings.forward_secret, allow_private=settings.forward_allow_private
        )

    def line(self) -> Line:
        return Line(self)

    def headers(self, event_id: str, body: bytes) -> dict[str, str]:
        signed = signature_headers(self._secrets, event_id, int(self._clock()), body)
        return {**self._headers, **signed}


class Line:
    """A connection for several posts one after the other, made when first needed. For one thread."""

    def __init__(self, client: WebhookClient) -> None:
        self._client = client
        self._connection: _Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, event_id: str, body: bytes) -> WebhookAnswer:
        """One attempt, whatever comes of it; on a connection that served before, a second where it was just closed."""
        deadline = Deadline(self._client.deadline_seconds)
        try:
            if self._connection is not None:
                try:
                    return self._exchange(self._connection, event_id, body, deadline)
                except (ConnectionError, http.client.HTTPException):
                    self.close()
            return self._exchange(self._connect(deadline), event_id, body, deadline)
        except (OSError, http.client.HTTPException, AddressNotAllowed, ValueError) as error:
            self.close()
            return WebhookAnswer(None, _explain(error, deadline))

    def _connect(self, deadline: Deadline) -> _Connection:
        client = self._client
        addresses = client.resolve(client.host, client.port)
        check_addresses(addresses, allow_private=client.allow_private)
        self._connection = _Connection(client, list(addresses), deadline)
        return self._connection

    def _exchange(
        self, connection: _Connection, event_id: str, body: bytes, deadline: Deadline
    ) -> WebhookAnswer:
        connection.begin(deadline)
        connection.request("POST", self._client.target, body, self._client.headers(event_id, body))
        response = connection.getresponse()
        if not _is_drained(response) or response.will_close:
            self.close()
        return WebhookAnswer(response.status, _judge(response.status))


class _Connection(http.client.HTTPConnection):
    """To addresses that were checked, whatever the name says by now; the name stays in `Host` and in TLS."""

    def __init__(self, client: WebhookClient, addresses: list[str], deadline: Deadline) -> None:
        self.default_port = 443 if client.tls else 80
        super().__init__(client.host, client.port)
        self._tls, self._addresses, self._deadline = client.tls, addresses, deadline

    def begin(self, deadline: Deadline) -> None:
        self._deadline = deadline
        if self.sock is not None:
            self.sock.settimeout(deadline.seconds_left())

    def connect(self) -> None:
        sock = self._reach()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self._deadline.seconds_left())
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self._deadline.seconds_left())
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def _reach(self) -> socket.socket:
        problem: OSError = OSError("the name has no address")
        for address in self._addresses:
            try:
                wait = min(CONNECT_SECONDS, self._deadline.seconds_left())
                return socket.create_connection((address, self.port), timeout=wait)
            except OSError as error:
                problem = error
        raise problem

    def response_class(self, sock: socket.socket, *arguments: Any, **options: Any) -> _ClockedResponse:  # type: ignore[override]
        return _ClockedResponse(self._deadline, sock, *arguments, **options)


class _ClockedResponse(http.client.HTTPResponse):
    def __init__(self, deadline: Deadline, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(ClockedSocket(self.fp.detach(), sock, deadline))


def _is_drained(response: http.client.HTTPResponse) -> bool:
    """Whether the body ended within the cap. What goes wrong here does not take the status back."""
    try:
        response.read(LONGEST_ANSWER_BYTES)
        is_over = response.isclosed() or not response.read(1)
    except (OSError, http.client.HTTPException):
        is_over = False
    response.close()
    return is_over


def _judge(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"{status}: redirects are not followed"
    return f"answered {status}"


def _explain(error: Exception, deadline: Deadline) -> str:
    if isinstance(error, AddressNotAllowed):
        return error.message
    if deadline.is_over or isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name is not found"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    return f"the connection failed: {type(error).__name__}"


def _authorization(username: str | None, password: str | None) -> dict[str, str]:
    if username is None:
        return {}
    pair = f"{unquote(username)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
