"""What the wire can do to a send, against real sockets: the outcome must be true and the wait bounded."""

import gzip
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.utils.raw_server import Say, reply, says, serving, wire
from utils import provider_transport
from utils.errors import NoRecipients, OutcomeUnknown, ProviderError, ProviderRefused, ProviderUnreachable
from utils.sms_utils import ProviderClient

ME = "+254712345678"
ACCEPTED = reply(wire("accepted_101.json"))
TIMEOUT_SECONDS = 8.0  # far above every deadline below: only a wait without end reaches it


@pytest.fixture
def client_for() -> Iterator[Callable[..., ProviderClient]]:
    made: list[ProviderClient] = []

    def make(url: str, timeout_seconds: float = 5) -> ProviderClient:
        made.append(ProviderClient("sandbox", "the-key", url, timeout_seconds))
        return made[-1]

    yield make
    for client in made:
        client.close()


def failure(client: ProviderClient, recipients: list[str] | None = None) -> ProviderError:
    began = time.monotonic()
    with pytest.raises(ProviderError) as caught:
        client.send_texts("Hello", recipients or [ME], None)
    assert time.monotonic() - began < TIMEOUT_SECONDS
    return caught.value


def form_of(request: bytes) -> dict[str, list[str]]:
    return parse_qs(request.partition(b"\r\n\r\n")[2].decode(), strict_parsing=True)


def reset(connection: socket.socket, request: bytes = b"") -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hang_up(connection: socket.socket, request: bytes = b"") -> None:
    connection.shutdown(socket.SHUT_RDWR)


def hold(connection: socket.socket, request: bytes = b"") -> None:
    connection.recv(1)


def drip(content: bytes) -> Say:
    def say(connection: socket.socket, request: bytes = b"") -> None:
        for position in range(len(content)):
            connection.sendall(content[position : position + 1])
            time.sleep(0.05)

    return say


def test_the_form_names_its_fields_and_always_says_enqueue(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        client_for(server.url).send_texts("Hello & Jambo é", [ME, "+254723456789"], "SHOP")
        assert form_of(server.requests[0]) == {
            "username": ["sandbox"],
            "to": [f"{ME},+254723456789"],
            "message": ["Hello & Jambo é"],
            "bulkSMSMode": ["1"],
            "from": ["SHOP"],
            "enqueue": ["1"],
        }


def test_the_head_asks_for_json_and_carries_the_key(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        client_for(server.url).send_texts("Hello", [ME], None)
        head = server.requests[0].partition(b"\r\n\r\n")[0].decode().lower()
        assert head.startswith("post /version1/messaging http/1.1\r\n")
        for line in ("accept: application/json", "apikey: the-key", "user-agent: sms-service"):
            assert f"\r\n{line}" in head
        assert "from" not in form_of(server.requests[0])


def test_an_answer_to_a_premium_message_carries_its_link_id(
    client_for: Callable[..., ProviderClient],
) -> None:
    with serving(says(ACCEPTED)) as server:
        client_for(server.url).send_texts("Hello", [ME], "20880", link_id="link-1")
        form = form_of(server.requests[0])
        assert (form["linkId"], form["from"], form["bulkSMSMode"]) == (["link-1"], ["20880"], ["0"])
        assert form["enqueue"] == ["1"]


@pytest.mark.parametrize(
    ("username", "link_id", "url"),
    [
        ("sandbox", None, "https://api.sandbox.africastalking.com/version1/messaging"),
        ("sandbox", "link-1", "https://api.sandbox.africastalking.com/version1/messaging"),
        ("shop", None, "https://api.africastalking.com/version1/messaging"),
        ("shop", "link-1", "https://content.africastalking.com/version1/messaging"),
    ],
)
def test_the_host_follows_the_user_name_and_the_kind_of_message(
    username: str, link_id: str | None, url: str
) -> None:
    client = ProviderClient(username, "key")
    assert client._make_url("/messaging", content=True if link_id else None) == url


def test_a_number_asked_for_twice_is_sent_once(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        client_for(server.url).send_texts("Hello", [ME, ME], None)
        assert form_of(server.requests[0])["to"] == [ME]


def test_a_refused_connection_has_sent_nothing(client_for: Callable[..., ProviderClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failure(client_for(f"http://127.0.0.1:{port}"))
    assert type(error) is ProviderUnreachable
    assert (error.outcome, error.retryable, error.reason) == ("not_sent", True, "connection_failed")
    assert error.not_sent == [ME]


def test_a_host_without_address_has_been_sent_nothing(
    client_for: Callable[..., ProviderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(*arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find_nothing)
    assert failure(client_for("http://provider.invalid")).reason == "name_not_found"


def test_a_connection_that_is_never_taken_up_has_sent_nothing(
    client_for: Callable[..., ProviderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_transport, "CONNECT_SECONDS", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        error = failure(client_for(f"http://127.0.0.1:{address[1]}"))
        for one in waiting:
            one.close()
    assert type(error) is ProviderUnreachable
    assert error.reason == "timed_out"


def test_a_failed_tls_handshake_has_sent_nothing(client_for: Callable[..., ProviderClient]) -> None:
    # The server speaks plain HTTP: it answers the client's hello with what is no TLS.
    def refuse_hello(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse_hello, args=(listener,))
        thread.start()
        error = failure(client_for(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert type(error) is ProviderUnreachable
    assert error.reason == "tls_failed"


@pytest.mark.parametrize("say", [hang_up, reset], ids=["hangs up", "resets"])
def test_a_connection_lost_after_the_request_is_unknown_and_not_asked_twice(
    say: Say, client_for: Callable[..., ProviderClient]
) -> None:
    with serving(say) as server:
        error = failure(client_for(server.url))
        assert type(error) is OutcomeUnknown
        assert (error.reason, error.unknown, error.not_sent) == ("connection_lost", [ME], [])
        assert len(server.requests) == 1


CUT_OFF = b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"
NOT_HTTP = b"220 mail.example.org ESMTP\r\n"


@pytest.mark.parametrize("content", [CUT_OFF, NOT_HTTP], ids=["cut off", "not HTTP"])
def test_half_an_answer_is_unknown(content: bytes, client_for: Callable[..., ProviderClient]) -> None:
    def say(connection: socket.socket, request: bytes = b"") -> None:
        connection.sendall(content)
        hang_up(connection)

    with serving(say) as server:
        assert type(failure(client_for(server.url))) is OutcomeUnknown


HEAD = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"


def drip_after(beginning: bytes, content: bytes) -> Say:
    def say(connection: socket.socket, request: bytes) -> None:
        connection.sendall(beginning)
        drip(content)(connection, request)

    return say


DRIPS = {
    "hangs": hold,
    "drips its head": drip(HEAD * 40),
    "drips its body": drip_after(HEAD + b"Content-Length: 4000\r\n\r\n", b" " * 4000),
    "drips chunks": drip_after(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 600),
    "drips interim answers": drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 200),
}


@pytest.mark.parametrize("say", DRIPS.values(), ids=DRIPS)
def test_one_deadline_ends_the_whole_exchange(say: Say, client_for: Callable[..., ProviderClient]) -> None:
    with serving(say) as server:
        client = client_for(server.url, 0.6)
        began = time.monotonic()
        error = failure(client)
        assert 0.5 < time.monotonic() - began < 3
        assert type(error) is OutcomeUnknown
        assert error.reason == "timed_out"


def test_a_deadline_of_one_call_overrules_the_clients(client_for: Callable[..., ProviderClient]) -> None:
    with serving(hold) as server:
        client = client_for(server.url, 60)
        with pytest.raises(OutcomeUnknown):
            client.send_texts("Hello", [ME], None, deadline_seconds=0.3)


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_without_time_left_nothing_is_sent(seconds: float, client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        client = client_for(server.url)
        client.send_texts("Hello", [ME], None)  # also not over a connection that is open already
        with pytest.raises(ProviderUnreachable) as caught:
            client.send_texts("Hello", [ME], None, deadline_seconds=seconds)
        assert (caught.value.reason, caught.value.not_sent) == ("timed_out", [ME])
        assert len(server.requests) == 1


def test_a_server_that_does_not_read_is_given_up_at_the_deadline(
    client_for: Callable[..., ProviderClient],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_for(f"http://127.0.0.1:{listener.getsockname()[1]}", 0.5)
        with pytest.raises(OutcomeUnknown) as caught:
            client.send_texts("x" * 20_000_000, [ME], None)
    assert caught.value.reason == "timed_out"


def test_a_dripping_balance_has_sent_nothing(client_for: Callable[..., ProviderClient]) -> None:
    with serving(drip(HEAD * 40)) as server, pytest.raises(ProviderUnreachable):
        client_for(server.url, 0.3).fetch_balance()


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"]
)
def test_a_redirect_takes_neither_the_key_nor_the_texts_elsewhere(
    status: str, client_for: Callable[..., ProviderClient]
) -> None:
    with serving(says(ACCEPTED)) as elsewhere:
        with serving(says(reply("", status, f"Location: {elsewhere.url}/version1/messaging"))) as server:
            error = failure(client_for(server.url))
            assert isinstance(error, ProviderRefused | OutcomeUnknown)
            assert len(server.requests) == 1
        assert elsewhere.connections == []


def endless(connection: socket.socket, request: bytes = b"") -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b" " * 65_536)


def test_an_endless_answer_is_cut_off(client_for: Callable[..., ProviderClient]) -> None:
    with serving(endless) as server:
        error = failure(client_for(server.url))
        assert (type(error), error.reason) == (OutcomeUnknown, "answer_too_large")


@pytest.mark.parametrize("status", ["201 Created", "307 Temporary Redirect"])
def test_a_compressed_bomb_is_cut_off(status: str, client_for: Callable[..., ProviderClient]) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    with serving(says(reply(bomb, status, "Content-Encoding: gzip", "Location: /elsewhere"))) as server:
        assert failure(client_for(server.url)).reason == "answer_too_large"


def test_a_compressed_answer_is_read(client_for: Callable[..., ProviderClient]) -> None:
    packed = reply(gzip.compress(wire("accepted_101.json")), "201 Created", "Content-Encoding: gzip")
    with serving(says(packed)) as server:
        assert client_for(server.url).send_texts("Hello", [ME], None).recipients[ME].outcome == "accepted"


def test_an_answer_packed_in_an_unknown_way_is_unknown(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(reply(b"\x00\x01", "201 Created", "Content-Encoding: gzip"))) as server:
        assert type(failure(client_for(server.url))) is OutcomeUnknown


def test_a_connection_is_used_again(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        client = client_for(server.url)
        for _ in range(3):
            client.send_texts("Hello", [ME], None)
        assert (len(server.requests), len(server.connections)) == (3, 1)


def test_a_connection_the_server_closed_while_idle_is_replaced(
    client_for: Callable[..., ProviderClient],
) -> None:
    def answer_and_close(connection: socket.socket, request: bytes = b"") -> None:
        connection.sendall(ACCEPTED)
        hang_up(connection)

    with serving(answer_and_close) as server:
        client = client_for(server.url)
        client.send_texts("Hello", [ME], None)
        time.sleep(0.1)
        assert client.send_texts("Hello", [ME], None).recipients[ME].outcome == "accepted"
        assert len(server.requests) == 2


def test_a_connection_idle_for_long_is_not_trusted(
    client_for: Callable[..., ProviderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(says(ACCEPTED)) as server:
        client = client_for(server.url)
        client.send_texts("Hello", [ME], None)
        monkeypatch.setattr(provider_transport, "LONGEST_IDLE_SECONDS", 0.0)
        client.send_texts("Hello", [ME], None)
        assert len(server.connections) == 2


def test_a_connection_lost_in_use_again_is_unknown(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED), reset) as server:
        client = client_for(server.url)
        client.send_texts("Hello", [ME], None)
        assert type(failure(client)) is OutcomeUnknown
        assert len(server.requests) == 2


def test_a_request_whose_head_could_not_be_written_has_sent_nothing(
    client_for: Callable[..., ProviderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server resets between the look at the idle connection and the write to it.
    monkeypatch.setattr(provider_transport._PlainConnection, "is_connected", True)

    def answer_and_reset(connection: socket.socket, request: bytes = b"") -> None:
        connection.sendall(ACCEPTED)
        time.sleep(0.1)
        reset(connection)

    with serving(answer_and_reset) as server:
        client = client_for(server.url)
        client.send_texts("Hello", [ME], None)
        time.sleep(0.3)
        error = failure(client)
        assert type(error) is ProviderUnreachable
        assert len(server.requests) == 1


def test_threads_share_a_client_and_get_their_own_answers(client_for: Callable[..., ProviderClient]) -> None:
    def echo(connection: socket.socket, request: bytes) -> None:
        number = form_of(request)["to"][0]
        connection.sendall(ACCEPTED.replace(ME.encode(), number.encode()))

    numbers = [f"+2547123456{position:02}" for position in range(40)]
    with serving(echo) as server:
        client = client_for(server.url)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: client.send_texts("Hello", [number], None), numbers))
        assert [answer.missing for answer in answers] == [[]] * 40
        assert len(server.requests) == 40
        assert len(server.connections) <= 8


def test_the_environments_proxy_is_not_used(
    client_for: Callable[..., ProviderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(hang_up) as proxy, serving(says(ACCEPTED)) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        client_for(server.url).send_texts("Hello", [ME], None)
        assert proxy.connections == []


def test_cookies_are_not_kept(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(reply(wire("accepted_101.json"), "201 Created", "Set-Cookie: a=b; Path=/"))) as server:
        client = client_for(server.url)
        client.send_texts("Hello", [ME], None)
        client.send_texts("Hello", [ME], None)
        assert b"cookie" not in server.requests[1].lower()


def test_a_text_that_no_request_can_carry_is_not_sent(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        with pytest.raises(ProviderRefused) as caught:
            client_for(server.url).send_texts("\ud83d", [ME], None)
        assert (caught.value.outcome, caught.value.not_sent) == ("not_sent", [ME])
        assert server.connections == []


def test_a_number_the_sdk_refuses_is_not_sent(client_for: Callable[..., ProviderClient]) -> None:
    with serving(says(ACCEPTED)) as server:
        with pytest.raises(ProviderRefused) as caught:
            client_for(server.url).send_texts("Hello", [ME, "0712345678"], None)
        assert (caught.value.reason, caught.value.not_sent) == ("invalid_phone", [ME, "0712345678"])
        assert server.connections == []


def test_an_error_nobody_foresaw_after_the_request_is_unknown(
    client_for: Callable[..., ProviderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(raw: object, longest: int) -> bytes:
        raise ValueError("not foreseen")

    monkeypatch.setattr(provider_transport, "_read_body", stumble)
    with serving(says(ACCEPTED)) as server:
        assert type(failure(client_for(server.url))) is OutcomeUnknown


def test_a_send_to_nobody_is_refused(client_for: Callable[..., ProviderClient]) -> None:
    with pytest.raises(NoRecipients):
        client_for("http://127.0.0.1:9").send_texts("Hello", [], None)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of this test")
    both, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {both} "
        "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    both.write_text(both.read_text() + key.read_text())
    return both


def test_over_tls_the_certificate_is_checked_and_the_deadline_holds(
    certificate: Path, client_for: Callable[..., ProviderClient]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(says(ACCEPTED), drip(HEAD * 40)) as server:
        server.secure_with(context)
        url = server.url.replace("http://", "https://")
        assert failure(client_for(url)).reason == "tls_failed"
        trusting = client_for(url, 0.6)
        trusting._transport._session.verify = str(certificate)
        assert trusting.send_texts("Hello", [ME], None).recipients[ME].outcome == "accepted"
        error = failure(trusting)
        assert (type(error), error.reason) == (OutcomeUnknown, "timed_out")
