"""The phone page: plain HTML by the test client, the live page in Chromium."""

import shutil
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.simulator.real_simulator import RealSimulator, Receiver, eventually

HEADERS = {"apiKey": "any", "Accept": "application/json"}
NUMBER = "+254711000111"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def send(client: FlaskClient, number: str, text: str, sender: str = "20880") -> None:
    form = {"username": "x", "to": number, "message": text, "from": sender}
    assert client.post("/version1/messaging", data=form, headers=HEADERS).status_code == 201


def test_the_empty_page_tells_how_to_make_a_phone_ring(client: FlaskClient) -> None:
    page = client.get("/").text
    assert "No phone has rung yet" in page
    assert "curl &#39;http://127.0.0.1:9/sms/invoke-bulk-sms?phone=254711000111" in page


def test_a_phone_leads_back_to_what_the_service_knows_of_it(client: FlaskClient) -> None:
    send(client, NUMBER, "Hello")
    assert 'href="http://127.0.0.1:9/people/%2B254711000111"' in client.get("/").text


def test_everything_shown_is_escaped(client: FlaskClient) -> None:
    send(client, NUMBER, "<script>alert(1)</script>", sender='"><img src=x>')
    page = client.get("/").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<img src=x>" not in page


def test_the_page_allows_no_inline_script_or_style(client: FlaskClient) -> None:
    send(client, NUMBER, "Habari")
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert " style=" not in answer.text
    assert " onclick=" not in answer.text


def test_an_unchanged_page_is_not_sent_again(client: FlaskClient) -> None:
    etag = client.get("/").headers["ETag"]
    assert client.get("/", headers={"If-None-Match": etag}).status_code == 304
    send(client, NUMBER, "Habari")
    assert client.get("/", headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (NUMBER, "Delivered, report on its way"),
        ("+254711000902", "Delivered, no report will come"),
        ("+254711000900", "Not received, report on its way"),
        ("+254711000406", "Refused: 406 UserInBlacklist"),
    ],
)
def test_each_text_says_what_became_of_it(client: FlaskClient, number: str, state: str) -> None:
    send(client, number, "Habari")
    assert state in client.get("/").text


def test_a_reply_goes_to_the_shortcode_the_text_came_from(client: FlaskClient) -> None:
    send(client, NUMBER, "Habari", sender="777")
    send(client, NUMBER, "Sale", sender="ACME")
    page = client.get("/").text
    assert "Reply to <strong>777</strong>" in page
    assert "ACME takes no replies" in page
    assert "Stop ACME via telco" in page
    assert "Stop 777 via telco" not in page


def test_stopping_a_sender_at_the_telco_can_be_undone(client: FlaskClient) -> None:
    send(client, NUMBER, "Sale", sender="ACME")
    pair = {"phoneNumber": NUMBER, "senderId": "ACME"}
    assert client.post("/phones/stop", data=pair).status_code == 303
    assert "Allow ACME again" in client.get("/").text
    client.post("/phones/allow", data=pair)
    assert "Stop ACME via telco" in client.get("/").text


def test_a_number_that_is_none_is_explained_beside_what_was_typed(client: FlaskClient) -> None:
    answer = client.post("/phones/text", data={"from": "12", "text": "Half written", "is_new": "yes"})
    assert answer.status_code == 400
    assert "A phone number looks like +254711000111" in answer.text
    assert 'value="Half written"' in answer.text


def test_a_phone_is_found_by_its_digits(client: FlaskClient) -> None:
    send(client, NUMBER, "Habari")
    send(client, "+256772000222", "Habari")
    assert "+256772000222" not in client.get("/?find=711").text
    assert "No phone with these digits" in client.get("/?find=999").text


@pytest.mark.processes
def test_the_service_knows_only_once_it_has_applied_the_report(
    real: RealSimulator, receiver: Receiver
) -> None:
    """Its 200 says that the report is stored."""
    receiver.applies = False
    real.send(NUMBER)
    shown = "Delivered, the service has the report"
    eventually(lambda: shown in real.session.get(real.url, timeout=10).text, "the report is taken")
    assert "the service knows" not in real.session.get(real.url, timeout=10).text
    receiver.applies = True
    eventually(lambda: "the service knows" in real.session.get(real.url, timeout=10).text, "it is applied")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, real: RealSimulator) -> Iterator[Page]:
    """A narrow window on the empty page; a script or policy error fails the test."""
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(real.url)
    yield page
    page.close()
    assert problems == []


@pytest.mark.browser
@pytest.mark.processes
def test_a_text_appears_by_itself_and_is_announced(page: Page, real: RealSimulator) -> None:
    expect(page.get_by_text("No phone has rung yet")).to_be_visible()
    real.send(NUMBER, message="Habari <b>yako</b>")
    expect(page.get_by_text("Habari <b>yako</b>")).to_be_visible()
    expect(page.get_by_text("Delivered, the service knows")).to_be_visible()
    expect(page.get_by_text("No phone has rung yet")).to_have_count(0)
    real.send(NUMBER, message="Second")
    expect(page.locator("#announcer")).to_have_text(f"New text on {NUMBER}: Second")


@pytest.mark.browser
@pytest.mark.processes
def test_a_reply_survives_refreshes_and_reaches_the_service(
    page: Page, real: RealSimulator, receiver: Receiver
) -> None:
    real.send(NUMBER, sender="777")
    reply = page.get_by_label("Reply to 777")
    reply.press_sequentially("Half a rep")
    real.send(NUMBER, message="Meanwhile", sender="777")
    expect(page.locator(".text", has_text="Meanwhile")).to_be_visible()
    expect(reply).to_be_focused()
    reply.press_sequentially("ly")
    reply.press("Enter")
    eventually(lambda: receiver.inbound, "the reply reaches the service")
    assert {name: receiver.inbound[0][name] for name in ("from", "to", "text")} == {
        "from": NUMBER,
        "to": "777",
        "text": "Half a reply",
    }
    expect(reply).to_have_value("")
    expect(page.get_by_text("Sent, the service has it")).to_be_visible()


@pytest.mark.browser
@pytest.mark.processes
def test_stop_and_the_telco_stop_are_two_buttons(page: Page, real: RealSimulator, receiver: Receiver) -> None:
    real.send(NUMBER, sender="ACME")
    page.get_by_role("button", name="STOP", exact=True).click()
    page.get_by_role("button", name="Stop ACME via telco").click()
    expect(page.get_by_role("button", name="Allow ACME again")).to_be_visible()
    eventually(lambda: receiver.bodies("/sms/opt-out") and receiver.inbound, "both callbacks come")
    assert receiver.inbound[0]["text"] == "STOP"
    assert receiver.bodies("/sms/opt-out") == [{"senderId": "ACME", "phoneNumber": NUMBER}]


@pytest.mark.browser
@pytest.mark.processes
def test_a_new_phone_can_text_first(page: Page, receiver: Receiver) -> None:
    page.get_by_text("Add a phone").first.click()
    page.get_by_label("Phone number").fill("+256772000222")
    page.get_by_label("Text", exact=True).fill("Hello")
    page.get_by_role("button", name="Send from this phone").click()
    expect(page.get_by_role("heading", name="+256772000222")).to_be_visible()
    eventually(lambda: receiver.inbound, "the service gets it")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
