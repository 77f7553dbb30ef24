"""One HTTP exchange with the provider, and the truth about whether anything left.

The SDK's own transport opens a connection per call, waits without end for a server that drips, follows
redirects with the key in hand and loses the HTTP status. This one:

- keeps connections open, but reuses none that was idle longer than servers commonly allow: a request written
  on a connection that is just being closed gets no answer, and its outcome is unknown;
- has one deadline for the whole exchange: every connect, write and read gets only the time that is left;
- follows no redirect, takes no proxy or .netrc from the environment, keeps no cookies, caps the answer;
- notes how far the request got. Only a failure before the first byte of the body counts as not sent: until
  then the provider knows no recipient. An exception's type cannot tell, for a TLS error or a reset may come
  before the request or after it.

Looking up a host name cannot be interrupted: a broken resolver may overrun the deadline. Nothing has left
then, and nothing leaves afterwards.
"""

import http.client
import io
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Literal, NoReturn

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError
from urllib3.response import HTTPResponse

from utils.deadlines import ClockedSocket, Deadline, boot_clock
from utils.errors import OutcomeUnknown, ProviderRefused, ProviderUnreachable

CONNECT_SECONDS = 5.0
# AT answers within two seconds; with less time before `not_after` the answer would hardly be heard.
LEAST_SECONDS = 2.0
LONGEST_IDLE_SECONDS = 4.0  # the shortest keep-alive in common use is Apache's 5 seconds
_LONGEST_WAIT_SECONDS = 86_400.0
_CHUNK = 65_536

Stage = Literal["nothing", "connecting", "head", "body"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whole: `body` is unpacked but not interpreted."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds from `Retry-After`, which may be a number or a date; None without a readable one."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value), _LONGEST_WAIT_SECONDS)
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
        return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)

    @property
    def prose(self) -> str:
        """The start of the body in one line, for a sentence."""
        return " ".join(self.body[:400].decode("utf-8", "replace").replace("\0", "\ufffd").split())[:200]


class _Exchange(Deadline):
    """The deadline of one exchange, and how far its request got."""

    def __init__(self, seconds: float, not_after: float | None) -> None:
        super().__init__(seconds, not_after)
        self.stage: Stage = "nothing"


# urllib3 passes nothing of ours from `urlopen` down to the connection, and one exchange stays in one thread.
class _Active(threading.local):
    exchange: _Exchange


_active = _Active()


class _ClockedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(ClockedSocket(self.fp.detach(), sock, _active.exchange))


class _PlainConnection(HTTPConnection):
    response_class = _ClockedResponse
    _answered_at = 0.0

    @property
    def is_connected(self) -> bool:
        is_fresh = time.monotonic() - self._answered_at < LONGEST_IDLE_SECONDS
        return is_fresh and super().is_connected

    def connect(self) -> None:
        exchange = _active.exchange
        exchange.stage = "connecting"
        try:
            self.timeout = min(CONNECT_SECONDS, exchange.seconds_left())
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from error
        super().connect()

    def endheaders(self, *arguments: Any, **options: Any) -> None:
        exchange = _active.exchange
        if self.sock is None:
            self.connect()
        exchange.stage = "head"
        self.sock.settimeout(exchange.seconds_left())
        super().endheaders(*arguments, **options)
        self.sock.settimeout(exchange.seconds_left())
        exchange.stage = "body"

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 does
        response = super().getresponse()
        self._answered_at = time.monotonic()
        return response


class _TlsConnection(_PlainConnection, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: even looking where a redirect leads would make `requests` read its body without a cap."""


class ProviderTransport:
    """A pool of connections for all threads of a process. `pool_size`: how many are kept open per host.

    `adapter`: answers in place of any connection (utils.provider_stand_in).
    """

    def __init__(self, pool_size: int, adapter: BaseAdapter | None = None) -> None:
        adapter = adapter or _connecting_adapter(pool_size)
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        form: Mapping[str, Any] | None,
        deadline_seconds: float,
        longest_answer: int,
        not_after: float | None = None,
    ) -> Reply:
        """The reply, whatever its status. `not_after`: a moment of `boot_clock()` that ends it earlier.

        Raises ProviderUnreachable where nothing was sent (always for a GET, which sends no text),
        OutcomeUnknown where something may have been, ProviderRefused for what no request can carry.
        """
        try:
            request = self._session.prepare_request(
                requests.Request(method, url, headers=dict(headers), params=params, data=form)
            )
        except (ValueError, requests.RequestException) as error:
            raise ProviderRefused("This cannot be written into a request", reason="unwritable") from error
        if not_after is not None and not_after - boot_clock() < LEAST_SECONDS:
            raise ProviderUnreachable(reason="timed_out", details={"exception": "too late to begin"})
        exchange = _active.exchange = _Exchange(deadline_seconds, not_after)
        try:
            # Every connect, write and read sets its own timeout; one has to be given to be set aside.
            response = self._session.send(
                request, stream=True, allow_redirects=False, timeout=CONNECT_SECONDS
            )
            with response:
                body = _read_body(response.raw, longest_answer)
        except (requests.RequestException, HTTPError, OSError, ValueError, _AnswerTooLarge) as error:
            _explain_failure(error, exchange, sends_texts=method != "GET")
        return Reply(response.status_code, response.headers, body)

    def close(self) -> None:
        self._session.close()


def _connecting_adapter(pool_size: int) -> BaseAdapter:
    connects = Retry(
        total=2,
        connect=2,
        read=0,
        redirect=0,
        status=0,
        other=0,
        backoff_factor=0.2,
        respect_retry_after_header=False,
    )
    return _Adapter(pool_connections=4, pool_maxsize=pool_size, max_retries=connects)


class _AnswerTooLarge(Exception):
    pass


def _read_body(raw: HTTPResponse, longest: int) -> bytes:
    body = bytearray()
    for chunk in raw.stream(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > longest:
            raise _AnswerTooLarge
    return bytes(body)


def _explain_failure(error: Exception, exchange: _Exchange, *, sends_texts: bool) -> NoReturn:
    # "nothing" is no proof: were a hook above not called, a text would be sent twice.
    has_left = exchange.stage not in {"connecting", "head"}
    reason = _name_reason(error, exchange, has_left)
    details = {"exception": type(error).__name__}
    if has_left and sends_texts:
        raise OutcomeUnknown(reason=reason, details=details) from error
    raise ProviderUnreachable(reason=reason, details=details) from error


def _name_reason(error: Exception, exchange: _Exchange, has_left: bool) -> str:
    if isinstance(error, _AnswerTooLarge):
        return "answer_too_large"
    if exchange.is_over or isinstance(error, requests.Timeout):
        return "timed_out"
    if has_left:
        return "connection_lost"
    if isinstance(error, requests.exceptions.SSLError):
        return "tls_failed"
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return "name_not_found" if isinstance(cause, NameResolutionError) else "connection_failed"
