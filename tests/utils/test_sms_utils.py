"""The plain functions, as a script uses them: environment in, AT's answer out."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.utils.raw_server import RawServer, Say, reply, says, serving, wire
from utils import sms_utils
from utils.errors import (
    CredentialsRefused,
    EmptyMessage,
    InvalidInput,
    InvalidPhone,
    MissingCredentials,
    MissingShortcode,
    NoRecipients,
    OutcomeUnknown,
    ProviderError,
    ProviderThrottled,
    ProviderUnreachable,
    SenderRefused,
)
from utils.sms_utils import (
    describe_status,
    safe_send_sms,
    send_bulk_sms,
    send_sms_with_retry,
    send_twoway_sms,
    validate_and_send,
)

ROOT = Path(__file__).resolve().parents[2]
ME, SECOND, THIRD, FOURTH = "+254712345678", "+254723456789", "+254734567890", "+254745678901"


def form_of(request: bytes) -> dict[str, str]:
    parsed = parse_qs(request.partition(b"\r\n\r\n")[2].decode())
    return {name: values[0] for name, values in parsed.items()}


def accept_all(connection: socket.socket, request: bytes) -> None:
    numbers = form_of(request)["to"].split(",")
    entries = [
        {
            "statusCode": 101,
            "number": number,
            "status": "Success",
            "cost": "KES 0.8000",
            "messageId": f"ATXid_{number}",
        }
        for number in numbers
    ]
    total = f"Sent to {len(numbers)}/{len(numbers)} Total Cost: KES {0.8 * len(numbers):.4f}"
    body = json.dumps({"SMSMessageData": {"Message": total, "Recipients": entries}})
    connection.sendall(reply(body))


def lose(connection: socket.socket, request: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


THROTTLE = says(reply("slow down", "429 Too Many Requests", "Retry-After: 7"))


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AT_USERNAME": "sandbox",
        "AT_API_KEY": "the-key",
        "AT_SHORTCODE": "20880",
        "AT_SENDER_ID": "SHOP",
        "AT_BASE_URL": "http://127.0.0.1:9",
        "AT_MAX_RECIPIENTS": "2",
        "AT_TIMEOUT_SECONDS": "5",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RawServer]]:
    open_servers = []

    def start(*what: Say) -> RawServer:
        context = serving(*what)
        server = context.__enter__()
        open_servers.append(context)
        monkeypatch.setenv("AT_BASE_URL", server.url)
        return server

    yield start
    for client in sms_utils._CLIENTS.values():
        client.close()
    sms_utils._CLIENTS.clear()
    for context in open_servers:
        context.__exit__(None, None, None)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def sent_to(server: RawServer) -> list[str]:
    return [form_of(request)["to"] for request in server.requests]


def test_a_bulk_send_returns_the_providers_answer(provider: Callable[..., RawServer]) -> None:
    server = provider(accept_all)
    assert send_bulk_sms("Hello", [ME, SECOND]) == {
        "SMSMessageData": {
            "Message": "Sent to 2/2 Total Cost: KES 1.6000",
            "Recipients": [
                {
                    "statusCode": 101,
                    "number": number,
                    "status": "Success",
                    "cost": "KES 0.8000",
                    "messageId": f"ATXid_{number}",
                }
                for number in (ME, SECOND)
            ],
        }
    }
    form = form_of(server.requests[0])
    assert (form["from"], form["message"], form["enqueue"]) == ("SHOP", "Hello", "1")


def test_a_bulk_send_without_a_sender_id_names_none(
    provider: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AT_SENDER_ID", "")
    server = provider(accept_all)
    send_bulk_sms("Hello", [ME])
    assert "from" not in form_of(server.requests[0])


def test_many_recipients_take_several_posts_and_one_answer(provider: Callable[..., RawServer]) -> None:
    server = provider(accept_all)
    answer = send_bulk_sms("Hello", [ME, SECOND, ME, THIRD])
    assert sent_to(server) == [f"{ME},{SECOND}", THIRD]
    content = answer["SMSMessageData"]
    assert content["Message"] == "Sent to 3/3 Total Cost: KES 2.4000"
    assert [entry["number"] for entry in content["Recipients"]] == [ME, SECOND, THIRD]


def test_a_number_with_its_national_prefix_left_in_is_sent_as_the_library_reads_it(
    provider: Callable[..., RawServer],
) -> None:
    server = provider(accept_all)
    send_bulk_sms("Hello", ["+2540712345678", ME])
    assert sent_to(server) == [ME]


def test_a_recipient_left_out_of_the_answer_is_named(provider: Callable[..., RawServer]) -> None:
    provider(says(reply(wire("accepted_101.json"))))
    answer = send_bulk_sms("Hello", [ME, SECOND])
    assert answer["Missing"] == [SECOND]
    assert len(answer["SMSMessageData"]["Recipients"]) == 1


def test_a_post_that_is_refused_stops_the_rest_and_says_what_became_of_all(
    provider: Callable[..., RawServer],
) -> None:
    server = provider(accept_all, says(reply(wire("invalid_sender.json"))))
    with pytest.raises(SenderRefused) as caught:
        send_bulk_sms("Hello", [ME, SECOND, THIRD, FOURTH, "+254756789012"])
    error = caught.value
    assert len(server.requests) == 2
    assert (error.not_sent, error.unknown) == ([THIRD, FOURTH, "+254756789012"], [])
    assert error.response is not None
    assert [entry["number"] for entry in error.response["SMSMessageData"]["Recipients"]] == [ME, SECOND]


def test_a_post_whose_answer_is_lost_keeps_the_unknown_apart_from_the_unsent(
    provider: Callable[..., RawServer],
) -> None:
    server = provider(says(reply(wire("accepted_101.json"))), lose)
    with pytest.raises(OutcomeUnknown) as caught:
        send_bulk_sms("Hello", [ME, SECOND, THIRD, FOURTH, "+254756789012"])
    error = caught.value
    assert (error.unknown, error.not_sent) == ([SECOND, THIRD, FOURTH], ["+254756789012"])
    assert error.response is not None
    assert error.response["Missing"] == [SECOND]
    assert len(server.requests) == 2


@pytest.mark.parametrize("message", [None, "", "   ", "\n\t "])
@pytest.mark.parametrize(
    "send", [lambda text: send_bulk_sms(text, [ME]), lambda text: send_twoway_sms(text, ME)]
)
def test_an_empty_message_is_refused_before_any_network_call(
    send: Callable[[object], object], message: object
) -> None:
    with pytest.raises(ValueError, match=r"^Message cannot be empty$") as caught:
        send(message)
    assert isinstance(caught.value, EmptyMessage)


@pytest.mark.parametrize("message", [5, b"Hello", ["Hello"], "half \ud83d"], ids=ascii)
def test_what_is_no_text_is_refused_before_any_network_call(message: object) -> None:
    with pytest.raises(InvalidInput):
        send_bulk_sms(message, [ME])  # type: ignore[arg-type]


@pytest.mark.parametrize("recipients", [[], (), None, iter([])])
def test_an_empty_list_is_refused_before_any_network_call(recipients: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^Recipients list cannot be empty$") as caught:
        send_bulk_sms("Hello", recipients)
    assert isinstance(caught.value, NoRecipients)


@pytest.mark.parametrize("recipients", [ME, ME.encode(), 254712345678])
def test_a_lone_number_is_not_taken_for_a_list(recipients: list[str]) -> None:
    with pytest.raises(InvalidInput, match="must be a list"):
        send_bulk_sms("Hello", recipients)


@pytest.mark.parametrize("phone", ["0712345678", "254712345678", "712345678", "", "   ", None, 254712345678])
def test_a_number_without_plus_is_refused_with_that_sentence(phone: str) -> None:
    sends: tuple[Callable[[], object], ...] = (
        lambda: send_bulk_sms("Hello", [ME, phone]),
        lambda: send_twoway_sms("Hello", phone),
    )
    for send in sends:
        with pytest.raises(ValueError, match=r"^Invalid recipient format: must start with '\+'$"):
            send()


@pytest.mark.parametrize(
    "phone",
    ["+1234", "+0711000111", "+" + "2" * 28, "+\u0662\u0665\u0664712345678", ME + "\n", "+2547ABC45678"],
    ids=ascii,
)
def test_an_impossible_number_is_refused_before_any_network_call(phone: str) -> None:
    with pytest.raises(InvalidPhone) as caught:
        send_bulk_sms("Hello", [ME, phone])
    assert caught.value.details == {"position": 1}


def test_a_number_one_digit_short_for_its_country_is_impossible() -> None:
    with pytest.raises(InvalidPhone, match="too short for its country"):
        send_bulk_sms("Hello", ["+234803456789"])


def test_a_possible_number_is_sent_to_with_a_warning_that_does_not_show_it(
    provider: Callable[..., RawServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = provider(accept_all)
    with caplog.at_level(logging.WARNING):
        send_bulk_sms("Hello", ["+254999999999"])
    assert sent_to(server) == ["+254999999999"]
    [record] = caplog.records
    assert vars(record)["recipient"] == "+2549…999"


@pytest.mark.parametrize(
    ("username", "key", "named"),
    [
        ("", "", "AT_USERNAME and AT_API_KEY"),
        ("sandbox", "", "Set AT_API_KEY"),
        ("", "key", "Set AT_USERNAME"),
    ],
)
def test_without_credentials_one_error_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, username: str, key: str, named: str
) -> None:
    monkeypatch.setenv("AT_USERNAME", username)
    monkeypatch.setenv("AT_API_KEY", key)
    sends: tuple[Callable[[], object], ...] = (
        lambda: send_bulk_sms("Hello", [ME]),
        lambda: send_twoway_sms("Hello", ME),
    )
    for send in sends:
        with pytest.raises(MissingCredentials, match=named):
            send()


def test_a_bare_script_can_import_it_with_nothing_set() -> None:
    script = (
        "from utils.sms_utils import *\n"
        "import sys\n"
        "assert not {'flask', 'sqlalchemy', 'app', 'messaging'} & set(sys.modules)\n"
        "try: send_bulk_sms('Hello', ['+254712345678'])\n"
        "except Exception as error: sys.exit(type(error).__name__)\n"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AT_")} | {
        "AT_USERNAME": "",
        "AT_API_KEY": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == "MissingCredentials"


def test_a_two_way_send_goes_out_from_the_shortcode_that_is_set(provider: Callable[..., RawServer]) -> None:
    server = provider(accept_all)
    answer = send_twoway_sms("Hello! Reply to this message.", ME)
    assert answer["SMSMessageData"]["Recipients"][0]["status"] == "Success"
    assert form_of(server.requests[0])["from"] == "20880"


def test_a_two_way_send_takes_the_shortcode_it_is_given(provider: Callable[..., RawServer]) -> None:
    server = provider(accept_all)
    send_twoway_sms(message="Hello", recipient=ME, shortcode="12345")
    assert form_of(server.requests[0])["from"] == "12345"


def test_a_shortcode_set_after_the_import_counts(
    provider: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = provider(accept_all)
    monkeypatch.setenv("AT_SHORTCODE", "99999")
    send_twoway_sms("Hello", ME)
    assert form_of(server.requests[0])["from"] == "99999"


def test_a_two_way_send_without_shortcode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AT_SHORTCODE", "")
    with pytest.raises(MissingShortcode) as caught:
        send_twoway_sms("Hello", ME)
    assert isinstance(caught.value, ValueError)


def test_wrong_credentials_are_an_error_of_their_own(provider: Callable[..., RawServer]) -> None:
    provider(says(reply(wire("refused_401.txt"), "401 Unauthorized")))
    with pytest.raises(CredentialsRefused) as caught:
        send_twoway_sms("Hello", ME)
    assert (caught.value.http_status, caught.value.outcome) == (401, "not_sent")
    assert not isinstance(caught.value, ValueError)


def test_calls_share_one_client_also_between_threads(provider: Callable[..., RawServer]) -> None:
    server = provider(accept_all)
    send_bulk_sms("Hello", [ME])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: send_bulk_sms("Hello", [ME]), range(12)))
    assert len(server.requests) == 13
    assert len(server.connections) <= 4
    assert [url for *_, url, _ in sms_utils._CLIENTS].count(server.url) == 1


def test_retries_wait_longer_each_time_and_end_with_the_answer(
    provider: Callable[..., RawServer], naps: list[float]
) -> None:
    busy = says(reply("", "429 Too Many Requests"))
    server = provider(busy, busy, accept_all)
    assert "Sent to 1/1" in send_sms_with_retry("Hello", [ME])["SMSMessageData"]["Message"]
    assert naps == [1, 2]
    assert len(server.requests) == 3


def test_a_retry_waits_as_long_as_the_provider_asks(
    provider: Callable[..., RawServer], naps: list[float]
) -> None:
    provider(THROTTLE, accept_all)
    send_sms_with_retry("Hello", [ME])
    assert naps == [7]


def test_a_retry_that_would_have_to_wait_for_minutes_is_left_to_the_caller(
    provider: Callable[..., RawServer], naps: list[float]
) -> None:
    server = provider(says(reply("", "429 Too Many Requests", "Retry-After: 3600")))
    with pytest.raises(ProviderThrottled) as caught:
        send_sms_with_retry("Hello", [ME])
    assert (caught.value.retry_after, caught.value.not_sent, naps) == (3600, [ME], [])
    assert len(server.requests) == 1


@pytest.mark.parametrize("retries", [1, 3, 0, -1])
def test_retries_end(provider: Callable[..., RawServer], naps: list[float], retries: int) -> None:
    server = provider(THROTTLE)
    with pytest.raises(ProviderThrottled) as caught:
        send_sms_with_retry("Hello", [ME], retries=retries)
    assert len(server.requests) == max(retries, 1)
    assert len(naps) == len(server.requests) - 1
    assert caught.value.not_sent == [ME]


def test_an_unknown_outcome_is_never_sent_again(
    provider: Callable[..., RawServer], naps: list[float]
) -> None:
    server = provider(lose)
    with pytest.raises(OutcomeUnknown) as caught:
        send_sms_with_retry("Hello", [ME])
    assert (caught.value.unknown, caught.value.not_sent) == ([ME], [])
    assert (len(server.requests), naps) == (1, [])


def test_after_a_lost_answer_only_the_unsent_rest_is_sent(
    provider: Callable[..., RawServer], naps: list[float]
) -> None:
    server = provider(accept_all, lose, accept_all)
    with pytest.raises(OutcomeUnknown) as caught:
        send_sms_with_retry("Hello", [ME, SECOND, THIRD, FOURTH, "+254756789012"])
    error = caught.value
    assert sent_to(server) == [f"{ME},{SECOND}", f"{THIRD},{FOURTH}", "+254756789012"]
    assert (error.unknown, error.not_sent) == ([THIRD, FOURTH], [])
    assert error.response is not None
    accepted = [entry["number"] for entry in error.response["SMSMessageData"]["Recipients"]]
    assert accepted == [ME, SECOND, "+254756789012"]
    assert naps == [1]


def test_a_throttled_rest_is_sent_later_and_merged(
    provider: Callable[..., RawServer], naps: list[float]
) -> None:
    server = provider(accept_all, THROTTLE, accept_all)
    answer = send_sms_with_retry("Hello", [ME, SECOND, THIRD])
    assert sent_to(server) == [f"{ME},{SECOND}", THIRD, THIRD]
    assert answer["SMSMessageData"]["Message"] == "Sent to 3/3 Total Cost: KES 2.4000"
    assert naps == [7]


@pytest.mark.parametrize(
    "say",
    [
        says(reply(wire("invalid_sender.json"))),
        says(reply("", "401 Unauthorized")),
        says(reply("", "400 Bad Request")),
    ],
)
def test_a_refusal_is_not_tried_again(
    provider: Callable[..., RawServer], naps: list[float], say: Say
) -> None:
    server = provider(say)
    with pytest.raises(ProviderError) as caught:
        send_sms_with_retry("Hello", [ME])
    assert (caught.value.outcome, len(server.requests), naps) == ("not_sent", 1, [])


def test_an_unreachable_provider_is_tried_again(naps: list[float]) -> None:
    with pytest.raises(ProviderUnreachable) as caught:
        send_sms_with_retry("Hello", [ME], retries=2)
    assert caught.value.not_sent == [ME]
    assert 1 in naps


def test_bad_input_is_not_tried_again(naps: list[float]) -> None:
    sends: tuple[Callable[[], object], ...] = (
        lambda: send_sms_with_retry("", [ME]),
        lambda: send_sms_with_retry("Hello", ["0712345678"]),
    )
    for send in sends:
        with pytest.raises(InvalidInput):
            send()
    assert naps == []


def test_the_safe_send_adds_a_plus_and_names_what_it_skipped(provider: Callable[..., RawServer]) -> None:
    server = provider(accept_all)
    given = ["254712345678", " +254723456789", "0712345678", "+1234", "", None, ME]
    answer = safe_send_sms("Hello", given)  # type: ignore[arg-type]
    assert sent_to(server) == [f"{ME},{SECOND}"]
    assert answer["Skipped"] == ["0712345678", "+1234", "", "None"]
    assert len(answer["SMSMessageData"]["Recipients"]) == 2


def test_a_number_without_its_plus_does_not_reach_a_stranger_abroad(
    provider: Callable[..., RawServer],
) -> None:
    provider(accept_all)
    assert safe_send_sms("Hello", [ME, "622000001", "685000001"])["Skipped"] == ["622000001", "685000001"]
    assert validate_and_send("Hello", "271234567") is None


def test_local_numbers_are_sent_to_where_their_region_is_set(
    provider: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = provider(accept_all)
    monkeypatch.setenv("DEFAULT_REGION", "KE")
    assert (
        safe_send_sms("Hello", ["0712345678", "723456789", "\u202a+254 734 567 890\u202c"])["Skipped"] == []
    )
    assert validate_and_send("Hello", "0745678901") is not None
    assert sent_to(server) == [f"{ME},{SECOND}", THIRD, FOURTH]


def test_the_safe_send_of_good_numbers_skips_none(provider: Callable[..., RawServer]) -> None:
    provider(accept_all)
    assert safe_send_sms("Hello", [ME])["Skipped"] == []


@pytest.mark.parametrize("recipients", [[], ["0712345678"], ["", "+1234"]])
def test_the_safe_send_refuses_when_no_number_is_left(recipients: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^No valid recipients$"):
        safe_send_sms("Hello", recipients)


def test_the_safe_send_refuses_an_empty_message() -> None:
    with pytest.raises(ValueError, match=r"^Message cannot be empty$"):
        safe_send_sms("  ", [ME])


@pytest.mark.parametrize("phone", [ME, "254712345678", " 254712345678 "])
def test_validate_and_send_adds_a_missing_plus(provider: Callable[..., RawServer], phone: str) -> None:
    server = provider(accept_all)
    answer = validate_and_send("Hello", phone)
    assert answer is not None
    assert (form_of(server.requests[0])["to"], form_of(server.requests[0])["from"]) == (ME, "20880")


@pytest.mark.parametrize("phone", ["0712345678", "712", "", None, "hello", "+1234"])
def test_validate_and_send_returns_none_for_a_bad_number(phone: str) -> None:
    assert validate_and_send("Hello", phone) is None


def test_statuses_are_described_here_too() -> None:
    assert describe_status(405).startswith("InsufficientBalance: Insufficient account balance.")


def test_a_client_needs_a_key_that_a_header_can_carry() -> None:
    for key in ("", "kéy", "key\n"):
        with pytest.raises(MissingCredentials):
            sms_utils.ProviderClient("sandbox", key)


def test_nothing_logged_shows_the_key_a_number_or_the_text(
    provider: Callable[..., RawServer], caplog: pytest.LogCaptureFixture
) -> None:
    provider(accept_all, lose)
    with caplog.at_level(logging.DEBUG):
        send_bulk_sms("secret text", [ME])
        with pytest.raises(OutcomeUnknown) as caught:
            send_bulk_sms("secret text", [ME])
    written = caplog.text + str(caught.value)
    assert caplog.records
    assert not [word for word in ("the-key", "secret", ME, ME[1:]) if word in written]
