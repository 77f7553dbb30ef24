"""`POST /v1/messages`: what is taken, what is refused, and one effect per Idempotency-Key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.web import Caller

ALICE, BOB = "+254711000001", "+254711000002"


def send(caller: Caller, key: str | None = None, **body: Any) -> Any:
    wanted = {"to": ALICE, "text": "Hello"} | body
    return caller.post("/v1/messages", wanted, {"Idempotency-Key": key} if key else None)


def test_one_text_to_one_person_is_queued(caller: Caller) -> None:
    answer = send(caller)
    message_id = answer.json["messages"][0]["id"]
    assert answer.status_code == 202
    assert answer.json == {
        "batch_id": answer.json["batch_id"],
        "accepted": 1,
        "refused": [],
        "duplicates": 0,
        "blocked": [],
        "warnings": [],
        "warning_counts": {},
        "messages": [{"id": message_id, "to": ALICE, "status": "queued"}],
    }
    assert caller.message(message_id)["text"] == "Hello"


def test_a_text_is_kept_and_measured_in_its_composed_form(caller: Caller) -> None:
    answer = send(caller, text="cafe\u0301 " * 20, sender_id="O'Brien")
    message = caller.message(answer.json["messages"][0]["id"])
    assert (message["text"], message["estimated_parts"]) == ("café " * 20, 1)
    assert message["sender_id"] == "O'Brien"


def test_who_opted_out_is_named_at_once(caller: Caller) -> None:
    caller.callback("/sms/opt-out", {"phoneNumber": BOB})
    assert send(caller, to=[ALICE, BOB]).json["blocked"] == [BOB]


@pytest.mark.parametrize(
    ("body", "field", "sentence"),
    [
        ({"to": ALICE, "message": "Hello"}, "message", "`message` is not known here: did you mean `text`?"),
        ({"phone": ALICE, "text": "Hello"}, "phone", "`phone` is not known here: did you mean `to`?"),
        ({"to": ALICE, "text": "x", "senderId": "A"}, "senderId", "did you mean `sender_id`?"),
        ({"to": ALICE, "text": "x", "send-at": "A"}, "send-at", "did you mean `send_at`?"),
        ({"to": ALICE, "text": "x", "zzz": "A"}, "zzz", "`zzz` is not known here, only to, text, sender_id"),
        ({"to": ALICE}, "text", "`text` is missing"),
    ],
)
def test_an_unknown_field_is_named_with_the_likely_one(
    caller: Caller, body: dict[str, str], field: str, sentence: str
) -> None:
    answer = caller.post("/v1/messages", body)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["field"]) == (400, field)
    assert sentence in answer.json["error"]["message"]


def test_an_unknown_query_parameter_is_named_with_the_likely_one(caller: Caller) -> None:
    answer = caller.get("/v1/messages?phone=254711000001")
    assert answer.json is not None
    assert answer.json["error"]["message"] == "`phone` is not known here: did you mean `to`?"


def test_a_doubtful_number_is_sent_to_and_named(caller: Caller) -> None:
    answer = send(caller, to=[ALICE, "+2547110000012"]).json
    assert (answer["accepted"], answer["warning_counts"]) == (2, {"doubtful_number": 1})
    assert [(one["to"], one["code"]) for one in answer["warnings"]] == [("+2547110000012", "doubtful_number")]
    batch = caller.get(f"/v1/batches/{answer['batch_id']}").json
    assert batch is not None
    assert batch["warnings"] == answer["warnings"]


def test_recipients_are_normalised_deduplicated_and_refused_by_name(caller: Caller) -> None:
    answer = send(caller, to=["+254 711 000 001", ALICE, BOB, "0712345678", "+1"])
    assert [one["to"] for one in answer.json["messages"]] == [ALICE, BOB]
    assert (answer.json["accepted"], answer.json["duplicates"]) == (2, 1)
    assert [(one["to"], one["code"]) for one in answer.json["refused"]] == [
        ("0712345678", "invalid_phone"),
        ("+1", "invalid_phone"),
    ]
    assert all(one["message"] for one in answer.json["refused"])


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"to": "0712345678"}, "invalid_phone", "to"),
        ({"text": "\u200b\ufe0f\u00a0"}, "empty_message", "text"),
        ({"to": ["0712345678", "+1"]}, "no_valid_recipients", "to"),
        ({"to": []}, "no_recipients", "to"),
        ({"to": [ALICE] * 10_001}, "too_many_recipients", "to"),
        ({"to": None}, "invalid_request", "to"),
        ({"to": [5]}, "invalid_request", "to.0"),
        ({"text": ""}, "empty_message", "text"),
        ({"text": " \n"}, "empty_message", "text"),
        ({"text": "x" * 1601}, "text_too_long", "text"),
        ({"text": "a\0b"}, "invalid_input", "text"),
        ({"text": 5}, "invalid_request", "text"),
        ({"sender_id": "no\nname"}, "invalid_sender_id", "sender_id"),
        ({"sender_id": ""}, "invalid_sender_id", "sender_id"),
        ({"on_unknown": "guess"}, "invalid_request", "on_unknown"),
        ({"send_at": "soon"}, "invalid_request", "send_at"),
        ({"send_at": "2036-01-01T08:00:00"}, "invalid_request", "send_at"),
        ({"send_at": "2036-01-01"}, "invalid_request", "send_at"),
        ({"send_at": 2082787200}, "invalid_request", "send_at"),
        ({"send_at": "2082787200"}, "invalid_request", "send_at"),
        ({"send_at": True}, "invalid_request", "send_at"),
        ({"expires_at": "2036-01-01T08:00"}, "invalid_request", "expires_at"),
        ({"expires_at": 2082787200.5}, "invalid_request", "expires_at"),
        ({"send_at": "2025-12-01T08:00:00+03:00"}, "send_at_in_past", "send_at"),
        ({"send_at": "2199-01-01T00:00:00Z"}, "invalid_time", "send_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "invalid_time", "expires_at"),
        ({"surprise": 1}, "invalid_request", "surprise"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_named_and_queues_nothing(
    caller: Caller, body: dict[str, Any], code: str, field: str
) -> None:
    answer = send(caller, **body)
    assert answer.status_code == 400
    assert (answer.json["error"]["code"], answer.json["error"]["field"]) == (code, field)
    assert caller.messages() == []


def test_a_repeated_key_gets_the_first_answer_and_queues_nothing(caller: Caller) -> None:
    first, second = send(caller, "key-1"), send(caller, "key-1")
    assert first.headers.get("Idempotent-Replay") is None
    assert (second.status_code, second.json) == (first.status_code, first.json)
    assert second.headers["Idempotent-Replay"] == "true"
    assert len(caller.messages()) == 1


def test_the_order_and_spacing_of_the_body_do_not_make_it_another(caller: Caller) -> None:
    first = send(caller, "key-1")
    headers = {"Idempotency-Key": "key-1"}
    second = caller.post("/v1/messages", {"text": "Hello", "on_unknown": "hold", "to": [ALICE]}, headers)
    assert second.json == first.json


def test_a_key_with_another_body_is_refused(caller: Caller) -> None:
    send(caller, "key-1")
    answer = send(caller, "key-1", text="Goodbye")
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(caller.messages()) == 1


def test_a_refused_request_leaves_its_key_free(caller: Caller) -> None:
    assert send(caller, "key-1", text="").status_code == 400
    assert send(caller, "key-1").status_code == 202


@pytest.mark.parametrize("key", ["x" * 256, "line\tbreak"])
def test_a_key_that_cannot_be_kept_is_refused(caller: Caller, key: str) -> None:
    answer = send(caller, key)
    assert (answer.status_code, answer.json["error"]["field"]) == (400, "Idempotency-Key")


def test_equal_requests_at_one_moment_queue_once(caller: Caller) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(caller, "key-1", to=[ALICE, BOB]), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["batch_id"] for answer in answers}) == 1
    assert len(caller.messages()) == 2


def test_a_text_for_later_keeps_its_times(caller: Caller) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    answer = send(caller, send_at=later.isoformat(), expires_at=(later + timedelta(hours=1)).isoformat())
    assert answer.status_code == 202
    assert caller.messages()[0]["status"] == "queued"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b'{"to": "+254711000001", "text": "caf\xe9"}', "not valid JSON"),
        (b'{"to": "+254711000001", "text": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"to": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"to": "+254711000001", "text": "a\\ud800b"}', "surrogate"),
        (b'{"to": ["\\uDFFF", "+254711000001"], "text": "Hello"}', "surrogate"),
        (b'{"to": "+254711000001", "text": "Hello", "\\ud83d": 1}', "surrogate"),
        ('{"to": "+254711000001", "text": "\\ud800"}'.encode("utf-16"), "surrogate"),
        (b"[]", "a JSON object"),
        (b'"text"', "JSON"),
        (b"null", "a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_and_the_answer_says_why(
    caller: Caller, body: bytes, says: str
) -> None:
    for path in ("/v1/messages", "/v1/sending/resume"):
        answer = caller.post_bytes(path, body, "application/json")
        assert answer.status_code == 400
        error = answer.json["error"]  # type: ignore[index]
        assert error["code"] == "invalid_request"
        assert says in error["message"]
        assert "SendMessages" not in error["message"]
    assert caller.messages() == []


def test_a_send_without_a_body_is_refused_and_a_resume_needs_none(caller: Caller) -> None:
    refused = caller.post_bytes("/v1/messages", b"", "application/json")
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "invalid_request")  # type: ignore[index]
    assert caller.post_bytes("/v1/sending/resume", b"", "application/json").status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_called_json_is_refused(caller: Caller, content_type: str) -> None:
    answer = caller.post_bytes("/v1/messages", b'{"to": "+254711000001", "text": "Hello"}', content_type)
    assert answer.status_code == 400
    assert "application/json" in answer.json["error"]["message"]  # type: ignore[index]


def test_a_whole_pair_of_surrogates_is_a_character(caller: Caller) -> None:
    body = b'{"to": "+254711000001", "text": "\\ud83d\\ude00"}'
    answer = caller.post_bytes("/v1/messages", body, "application/json")
    assert answer.status_code == 202
    assert caller.messages()[0]["text"] == "\N{GRINNING FACE}"


@pytest.mark.parametrize("sender_id", ["\0", "a\0b"])
def test_resuming_a_sender_id_that_no_store_can_hold_is_refused(caller: Caller, sender_id: str) -> None:
    answer = caller.post("/v1/sending/resume", {"sender_id": sender_id})
    assert answer.status_code == 400
    assert answer.json["error"]["field"] == "sender_id"  # type: ignore[index]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/quote"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"text": "Hello", "to": [' + b"1," * 300_000 + b"1]}", "valid string"),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}", "more than 100 fields"),
    ],
    ids=["wrong entries", "unknown fields"],
)
def test_a_body_with_no_end_of_mistakes_gets_a_short_answer(
    caller: Caller, path: str, body: bytes, says: str
) -> None:
    """A million wrong entries took 1.2 GB and six seconds, and were answered with 58 MB."""
    answer = caller.post_bytes(path, body, "application/json")
    assert answer.status_code == 400
    assert says in answer.json["error"]["message"]  # type: ignore[index]
    assert len(answer.data) < 1000
