"""Whatever is posted to the callback routes: with a valid token it is kept as it came, else nothing of it is."""

from __future__ import annotations

import zlib
from urllib.parse import urlencode

from flask_openapi.openapi import OpenAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from messaging.callbacks import journal
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.web import TOKEN

KINDS = {
    "twoway": "inbound",
    "delivery-reports": "report",
    "opt-out": "opt_out",
    "subscription": "subscription",
}
NAMES = [
    "from",
    "to",
    "text",
    "id",
    "linkId",
    "date",
    "phoneNumber",
    "senderId",
    "status",
    "failureReason",
    "é",
]
WORDS = [
    "+254711000001",
    "254711000001",
    "20880",
    "STOP",
    "Success",
    "UserInBlackList",
    "None",
    "\0",
    "\ud7ff",
    "",
]
ENCODINGS = ["utf-8", "utf-16", "utf-7", "latin-1", "cp037", "utf-8-sig"]
TYPES = [
    None,
    "",
    "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded; charset=utf-16",
    "application/x-www-form-urlencoded; charset=no-such",
    "application/json",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain; charset=\u00ff",
    "a/b; " + "c=d; " * 300,
]
FIELDS = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from(WORDS) | st.text(max_size=200), max_size=len(NAMES)
)


def as_form(fields: dict[str, str], encoding: str) -> bytes:
    text = urlencode({name: value.encode(encoding, "replace") for name, value in fields.items()})
    return text.encode(encoding, "replace")


def as_multipart(fields: dict[str, str]) -> bytes:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return "".join([*parts, "--x--"]).encode("utf-8", "replace")


BODIES = st.one_of(
    st.binary(max_size=3000),
    st.builds(as_form, FIELDS, st.sampled_from(ENCODINGS)),
    st.builds(as_multipart, FIELDS),
    FIELDS.map(lambda fields: str(fields).replace("'", '"').encode("utf-8", "replace")),
    st.binary(max_size=300).map(zlib.compress),
    # Cut in the midst of a character or an escape.
    st.builds(lambda fields, keep: as_form(fields, "utf-8")[:keep], FIELDS, st.integers(0, 80)),
)
HEADERS = st.dictionaries(
    st.sampled_from(["Content-Encoding", "Accept", "Accept-Encoding", "Content-Language", "X-Request-Id"]),
    st.sampled_from(["gzip", "br", "identity", "text/html", "*/*;q=x", "\u00ff", "a" * 3000, ""]),
    max_size=3,
)


def journaled(database: Database, route: str, body: bytes) -> bytes | None:
    """What is kept of it."""
    digest = journal.digest_of(KINDS[route], body)
    statement = select(tables.callbacks.c.body).where(tables.callbacks.c.digest == digest)
    with database.read() as connection:
        found = connection.execute(statement).scalar_one_or_none()
    return None if found is None else bytes(found)


def how_many(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(tables.callbacks)).scalar_one()


@given(
    route=st.sampled_from(sorted(KINDS)),
    body=BODIES,
    content_type=st.sampled_from(TYPES)
    | st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"])),
    headers=HEADERS,
    rest=st.sampled_from(["", "&token=other", "&a=%ff", "&%00=%00", "&phone=" + "1" * 500]),
)
@example("twoway", b"", None, {}, "")
@example(
    "opt-out", b"phoneNumber=%2B254711000001&senderId=%00", "text/plain", {"Content-Encoding": "gzip"}, ""
)
@example("twoway", b"\xff\xfe\x00", "application/x-www-form-urlencoded; charset=utf-16", {}, "&token=")
@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_with_a_valid_token_anything_is_answered_200_and_kept_byte_for_byte(
    app: OpenAPI,
    database: Database,
    route: str,
    body: bytes,
    content_type: str | None,
    headers: dict[str, str],
    rest: str,
) -> None:
    answer = app.test_client().post(
        f"/sms/{route}?token={TOKEN}{rest}", data=body, content_type=content_type, headers=headers
    )
    assert answer.status_code == 200, answer.text
    assert journaled(database, route, body) == body


@given(
    route=st.sampled_from(sorted(KINDS)),
    body=BODIES,
    content_type=st.sampled_from(TYPES),
    token=st.none() | st.text(max_size=50) | st.just(TOKEN.upper()) | st.just(TOKEN + "\0"),
)
@settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_without_one_nothing_of_it_is_kept(
    app: OpenAPI, database: Database, route: str, body: bytes, content_type: str | None, token: str | None
) -> None:
    query = {} if token is None else {"token": token.encode("utf-8", "surrogatepass")}
    answer = app.test_client().post(
        f"/sms/{route}", query_string=urlencode(query), data=body, content_type=content_type
    )
    assert answer.status_code == 403
    assert how_many(database) == 0
