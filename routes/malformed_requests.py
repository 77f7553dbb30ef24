"""What the web server itself refuses, before any route is known: as JSON, in the shape of its caller, like all else."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from gunicorn.http import errors

_FOR_API = re.compile(rb"\s*[A-Za-z]+ /v1/")
# As much of a request as tells whether it was for the API.
BEGINNING_BYTES = 64


class Refusal(NamedTuple):
    status: int
    reason: str
    code: str
    message: str

    def as_http(self, beginning: bytes) -> bytes:
        """`beginning`: the first bytes of the request."""
        nested = {"error": {"code": self.code, "message": self.message}}
        body = nested if _FOR_API.match(beginning) else {"error": self.message, "code": self.code}
        content = json.dumps(body).encode() + b"\n"
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


BROKEN = Refusal(500, "Internal Server Error", "internal_error", "Something went wrong here")
MALFORMED = Refusal(400, "Bad Request", "bad_request", "This is not a well-formed HTTP request")
# The first class that fits decides.
_REFUSALS: tuple[tuple[type[Exception], Refusal], ...] = (
    (errors.InvalidResponseHeader, BROKEN),
    (errors.InvalidResponseHeaderName, BROKEN),
    (errors.ConfigurationProblem, BROKEN),
    (
        errors.LimitRequestLine,
        Refusal(
            414,
            "URI Too Long",
            "uri_too_long",
            "The URL is too long: send long texts and many numbers with POST /v1/messages",
        ),
    ),
    (
        errors.LimitRequestHeaders,
        Refusal(
            431,
            "Request Header Fields Too Large",
            "request_header_fields_too_large",
            "The request has too many headers, or one that is too long",
        ),
    ),
    (
        errors.ExpectationFailed,
        Refusal(417, "Expectation Failed", "expectation_failed", "Of Expect only 100-continue is known here"),
    ),
    (
        errors.UnsupportedTransferCoding,
        Refusal(501, "Not Implemented", "not_implemented", "Of Transfer-Encoding only chunked is known here"),
    ),
    (errors.ForbiddenProxyRequest, Refusal(403, "Forbidden", "forbidden", "This proxy is not a trusted one")),
    (errors.ParseException, MALFORMED),
)


def refusal_of(error: Exception) -> Refusal:
    return next((refusal for kind, refusal in _REFUSALS if isinstance(error, kind)), BROKEN)
