from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from standardwebhooks import Webhook

from tests.utils.raw_server import RawServer, reply, says, serving
from utils.settings import Settings
from utils.webhook_client import LONGEST_ANSWER_BYTES, WebhookAnswer, WebhookClient

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = b'{"type":"inbound.received"}'
ACCEPTED = says(reply("ok", "200 OK"))


def client(url: str, **options: Any) -> WebhookClient:
    return WebhookClient(url, (SECRET,), **({"allow_private": True} | options))


def post(url: str, **options: Any) -> WebhookAnswer:
    with client(url, **options).line() as line:
        return line.post("evt_1", BODY)


def parse(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, {name: value for name, _, value in (line.partition(": ") for line in lines)}, body


class Resolver:
    """Answers in turn, the last one for all that follow."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


def test_an_event_is_posted_signed_and_accepted() -> None:
    with serving(ACCEPTED) as server:
        answer = post(f"{server.url}/events?from=sms")
    first, headers, body = parse(server.requests[0])
    assert answer == WebhookAnswer(200, None)
    assert first == "POST /events?from=sms HTTP/1.1"
    assert headers["webhook-id"] == "evt_1"
    assert headers["Content-Type"].startswith("application/json")
    assert Webhook(SECRET).verify(body, headers) == {"type": "inbound.received"}


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/hook/", "/hook/"),
        ("/a%20b/?x=1&y=%2F", "/a%20b/?x=1&y=%2F"),
        ("/caf\u00e9?ville=\u00e9", "/caf%C3%A9?ville=%C3%A9"),
    ],
)
def test_an_event_goes_to_the_very_path_of_the_setting(path: str, target: str) -> None:
    """A slash at the end too: without it many frameworks redirect."""
    with serving(ACCEPTED) as server:
        settings = Settings(
            forward_url=server.url + path, forward_secret=(SECRET,), forward_allow_private=True
        )
        from_settings = WebhookClient.from_settings(settings)
        assert from_settings is not None
        with from_settings.line() as line:
            assert line.post("evt_1", BODY) == WebhookAnswer(200, None)
    assert parse(server.requests[0])[0] == f"POST {target} HTTP/1.1"


def test_a_password_in_the_url_becomes_a_header() -> None:
    with serving(ACCEPTED) as server:
        post(server.url.replace("http://", "http://sms:p%40ss@"))
    _, headers, _ = parse(server.requests[0])
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"sms:p@ss").decode()
    assert headers["Host"] == urlsplit(server.url).netloc


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
def test_every_2xx_accepts(status: str) -> None:
    with serving(says(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())) as server:
        assert post(server.url).is_accepted


@pytest.mark.parametrize(
    "status", ["400 Bad", "401 No", "404 No", "410 Gone", "429 Slow", "500 Oops", "503 Later"]
)
def test_every_other_answer_is_a_failure_that_names_the_status(status: str) -> None:
    with serving(says(reply("no", status))) as server:
        answer = post(server.url)
    assert (answer.is_accepted, answer.status) == (False, int(status[:3]))
    assert status[:3] in (answer.problem or "")
    assert answer.is_gone is status.startswith("410")


def test_a_redirect_is_not_followed() -> None:
    with serving(ACCEPTED) as elsewhere:
        redirect = reply("", "307 Temporary Redirect", f"Location: {elsewhere.url}/admin")
        with serving(says(redirect)) as server:
            answer = post(server.url)
        assert (answer.status, answer.problem) == (307, "307: redirects are not followed")
        assert elsewhere.requests == []


def test_one_connection_serves_several_events() -> None:
    with serving(ACCEPTED) as server, client(server.url).line() as line:
        assert [line.post(f"evt_{number}", BODY).status for number in range(3)] == [200, 200, 200]
        assert len(server.connections) == 1


def test_a_kept_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    def once(connection: socket.socket, request: bytes) -> None:
        connection.sendall(reply("ok", "200 OK"))
        connection.shutdown(socket.SHUT_RDWR)

    with serving(once) as server, client(server.url).line() as line:
        assert [line.post(f"evt_{number}", BODY).status for number in range(2)] == [200, 200]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0.0.0.0:{port}/",
        "http://user@127.0.0.1:{port}/",
    ],
)
def test_this_machine_is_not_reached_unless_allowed(url: str) -> None:
    with serving(ACCEPTED) as server:
        answer = post(url.format(port=urlsplit(server.url).port), allow_private=False)
        assert server.connections == []
    assert not answer.is_accepted
    assert "not an address of the public internet" in (answer.problem or "")


@pytest.mark.parametrize("address", ["10.0.0.5", "169.254.169.254", "fd00::1", "::ffff:127.0.0.1"])
def test_a_name_with_a_private_address_is_refused(address: str) -> None:
    answer = post("http://crm.example.org", allow_private=False, resolve=Resolver([address]))
    assert "not an address of the public internet" in (answer.problem or "")


def test_a_name_that_changes_its_address_after_the_check_is_not_asked_again() -> None:
    with serving(ACCEPTED) as server:
        resolver = Resolver(["127.0.0.1"], ["203.0.113.1"])
        answer = post(f"http://crm.example.org:{urlsplit(server.url).port}/", resolve=resolver)
    _, headers, _ = parse(server.requests[0])
    assert (answer.status, resolver.asked) == (200, 1)
    assert headers["Host"] == f"crm.example.org:{urlsplit(server.url).port}"


def test_a_name_that_turns_private_is_refused_at_the_next_connection() -> None:
    resolver = Resolver(["203.0.113.1"], ["127.0.0.1"])
    with serving(ACCEPTED) as server:
        url = f"http://crm.example.org:{urlsplit(server.url).port}/"
        with client(url, allow_private=False, resolve=resolver, deadline_seconds=0.2).line() as line:
            first, second = line.post("evt_1", BODY), line.post("evt_2", BODY)
        assert server.connections == []
    # The first is a documentation network, refused too: neither answer of the resolver leads anywhere.
    assert first.status is second.status is None
    assert "127.0.0.1" in (second.problem or "")


def test_a_receiver_that_never_answers_costs_no_more_than_the_deadline() -> None:
    with serving(lambda connection, request: time.sleep(3)) as server:
        began = time.monotonic()
        answer = post(server.url, deadline_seconds=0.3)
        assert answer == WebhookAnswer(None, "no answer in time")
        assert time.monotonic() - began < 2


def test_a_receiver_that_drips_costs_no_more_than_the_deadline() -> None:
    def drip(connection: socket.socket, request: bytes) -> None:
        for _ in range(60):
            connection.sendall(b"H")
            time.sleep(0.05)

    with serving(drip) as server:
        began = time.monotonic()
        assert not post(server.url, deadline_seconds=0.3).is_accepted
        assert time.monotonic() - began < 2


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    def pour(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            connection.sendall(b"x" * LONGEST_ANSWER_BYTES)

    with serving(pour) as server:
        assert post(server.url).is_accepted


@pytest.mark.parametrize("said", [b"", b"hello\r\n\r\n", b"HTTP/1.1 nonsense\r\n\r\n"])
def test_an_answer_that_is_no_http_is_a_failure(said: bytes) -> None:
    def speak(connection: socket.socket, request: bytes) -> None:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_RDWR)

    with serving(speak) as server:
        assert post(server.url).status is None


def test_a_port_where_nobody_listens_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert post(f"http://127.0.0.1:{port}").problem == "the connection was refused"


def test_a_name_without_address_is_a_failure() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert post("http://crm.example.org", resolve=unknown).problem == "the name is not found"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of crm.example.org, signed by itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    names = ["-subj", "/CN=crm.example.org", "-addext", "subjectAltName=DNS:crm.example.org"]
    try:
        subprocess.run(
            [*command, *names, "-days", "2", "-keyout", path, "-out", path.with_suffix(".crt")],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    with path.open("a") as both:
        both.write(path.with_suffix(".crt").read_text())
    return path


def secure(server: RawServer, certificate: Path) -> list[str | None]:
    """Server names that clients asked for."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda sock, name, context: names.append(name)
    server.secure_with(context)
    return names


@pytest.mark.parametrize(("host", "is_reached"), [("crm.example.org", True), ("other.example.org", False)])
def test_tls_checks_the_name_of_the_url_at_the_checked_address(
    certificate: Path, host: str, is_reached: bool
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    server = RawServer(ACCEPTED)
    asked = secure(server, certificate)
    server.start()
    try:
        url = f"https://{host}:{urlsplit(server.url).port}/"
        answer = post(url, tls=trusting, resolve=Resolver(["127.0.0.1"]))
    finally:
        server.stop()
    assert asked == [host]
    assert answer.is_accepted is is_reached
    assert is_reached or (answer.problem or "").startswith("TLS failed")


def test_no_client_without_a_url() -> None:
    assert WebhookClient.from_settings(Settings()) is None


def test_private_networks_are_closed_unless_the_setting_opens_them() -> None:
    settings = Settings(forward_url="http://127.0.0.1:9", forward_secret=SECRET)
    open_settings = settings.model_copy(update={"forward_allow_private": True})
    made = [WebhookClient.from_settings(one) for one in (settings, open_settings)]
    assert [one.allow_private for one in made if one] == [False, True]
