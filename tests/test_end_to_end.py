"""The whole walk across real processes, a real database and real sockets: client, service, simulator, callback."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from sqlalchemy import func, select

from messaging.messages import held
from messaging.messages.queue import NewMessage, enqueue
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from tests.support.databases import KINDS, empty_database, opened
from tests.support.stack import API_KEY, SHORTCODE, TOKEN, Stack, eventually

ALICE = "+254711000001"
BOB = "+254711000002"
CAROL = "+254711000003"

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module", params=KINDS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("stack")
    with empty_database(request.param, folder) as database_url:
        stack = Stack(folder, database_url)
        try:
            stack.start_all()
            yield stack
        finally:
            stack.close()


def trigger(stack: Stack, phone: str, **query: str) -> requests.Response:
    return stack.get("/sms/invoke-bulk-sms", phone=phone, **query)


def test_a_trigger_reaches_the_handset_once_and_is_reported_delivered(stack: Stack) -> None:
    answer = trigger(stack, ALICE.removeprefix("+"), message="Clinic opens at nine")

    assert answer.status_code == 200
    assert answer.json()["message"] == f"SMS sent to {ALICE}"
    assert answer.json()["response"]["SMSMessageData"]["Recipients"][0]["number"] == ALICE
    assert [item["text"] for item in stack.ledger(ALICE)] == ["Clinic opens at nine"]
    eventually(lambda: stack.messages_to(ALICE)[0]["status"] == "delivered", "the report arrives")
    history = [step["status"] for step in stack.message(stack.messages_to(ALICE)[0]["id"])["history"]]
    assert history == ["queued", "sending", "accepted", "delivered"]


def test_the_phone_page_says_that_the_service_knows_once_it_does(stack: Stack) -> None:
    henry = "+254711000018"
    assert trigger(stack, henry).status_code == 200

    def page() -> str:
        shown = stack.session.get(stack.simulator_url, params={"find": henry[1:]}, timeout=10)
        return shown.text

    eventually(lambda: "Delivered, the service knows" in page(), "the page says so")
    assert [one["status"] for one in stack.messages_to(henry)] == ["delivered"]


def test_a_handset_that_writes_gets_one_reply(stack: Stack) -> None:
    stack.control("inbound", {"from": BOB, "text": "Hello?", "to": SHORTCODE})

    eventually(lambda: stack.ledger(BOB), "the reply arrives", seconds=10)
    assert [(item["from"], item["text"]) for item in stack.ledger(BOB)] == [
        (SHORTCODE, 'This is a response to: "Hello?"')
    ]


def test_one_inbound_message_posted_five_times_at_once_is_answered_once(stack: Stack) -> None:
    fields = {"from": CAROL, "to": SHORTCODE, "text": "Again", "id": "inbound-five-times", "linkId": ""}

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: stack.callback("/sms/twoway", fields), range(5)))

    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "GOOD")] * 5
    eventually(lambda: stack.ledger(CAROL), "the reply arrives", seconds=10)
    eventually(lambda: stack.messages_to(CAROL)[0]["status"] == "delivered", "the reply is delivered")
    assert len(stack.ledger(CAROL)) == 1
    assert len(stack.messages_to(CAROL)) == 1


def test_nobody_who_opted_out_is_texted(stack: Stack) -> None:
    dave = "+254711000004"
    assert stack.callback("/sms/opt-out", {"phoneNumber": dave, "senderId": "AFRICASTKNG"}).text == "OK"

    answer = trigger(stack, dave, message="Are you there?")

    assert (answer.status_code, answer.json()["code"]) == (403, "opted_out")
    assert stack.ledger(dave) == []


def test_stop_on_the_shortcode_ends_everything_and_is_not_echoed(stack: Stack) -> None:
    erin = "+254711000005"
    stack.control("inbound", {"from": erin, "text": "stop", "to": SHORTCODE})
    eventually(lambda: trigger(stack, erin).status_code == 403, "the opt-out counts")

    twoway = stack.get("/sms/invoke-twoway-sms", phone=erin)

    assert (twoway.status_code, twoway.json()["code"]) == (403, "opted_out")
    assert all("response to" not in item["text"] for item in stack.ledger(erin))


def test_a_stranger_changes_nothing(stack: Stack) -> None:
    frank = "+254711000006"
    # Not the reports on the texts of other tests, which come when they come.
    before = stack.get("/v1/callbacks", kind="opt_out").json()["items"]

    answer = stack.callback("/sms/opt-out", {"phoneNumber": frank, "senderId": "AFRICASTKNG"}, token="guess")

    assert answer.status_code == 403
    assert stack.get("/v1/callbacks", kind="opt_out").json()["items"] == before
    assert trigger(stack, frank).status_code == 200


def test_without_a_key_nothing_is_sent(stack: Stack) -> None:
    grace = "+254711000007"

    answer = requests.get(f"{stack.web_url}/sms/invoke-bulk-sms", params={"phone": grace}, timeout=10)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
    assert stack.ledger(grace) == []
    assert stack.messages_to(grace) == []


def test_a_head_request_never_sends(stack: Stack) -> None:
    heidi = "+254711000008"

    answer = stack.session.head(
        f"{stack.web_url}/sms/invoke-bulk-sms", params={"phone": heidi, "api_key": "x"}, timeout=10
    )

    assert answer.status_code == 405
    assert stack.ledger(heidi) == []


def test_a_file_is_quoted_sent_to_each_once_and_priced(stack: Stack) -> None:
    people = {f"+2547220000{n:02d}": f"Person {n}" for n in range(30)}
    rows = [f"{phone[1:]};{name}" for phone, name in people.items()]
    content = "\ufeffPhone;Name\r\n" + "\r\n".join([*rows, rows[0], "2.547E+11;Nobody"])
    form = {"text": "Dear {{name}}, school closes at noon"}

    def post(path: str) -> requests.Response:
        file = {"file": ("people.csv", content.encode(), "text/csv")}
        return stack.session.post(
            f"{stack.web_url}{path}",
            data=form,
            files=file,
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=30,
        )

    quoted = post("/v1/quote").json()
    assert (quoted["recipients"], quoted["duplicates"], quoted["refused_total"]) == (30, 1, 1)
    assert stack.ledger(next(iter(people))) == []
    answer = post("/v1/batches")
    assert (answer.status_code, answer.json()["status"]) == (202, "receiving")
    batch = f"/v1/batches/{answer.json()['id']}"
    eventually(lambda: stack.get(batch).json()["counts"].get("delivered") == 30, "all are delivered")
    for phone, name in people.items():
        assert [item["text"] for item in stack.ledger(phone)] == [f"Dear {name}, school closes at noon"]
    eventually(lambda: stack.get(batch).json()["status"] == "finished", "the batch is finished")
    assert stack.get(f"{batch}/messages.csv").text.count(",delivered,") == 30
    assert "excel_notation" in stack.get(f"{batch}/refused.csv").text
    assert post("/v1/quote").json()["estimated_cost"] == {"amount": "24.0000", "currency": "KES"}
    assert stack.get("/v1/audit").json()["problems"] == []


def test_a_callback_that_follows_a_huge_one_on_the_same_connection_is_not_lost(stack: Stack) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stack.web_port, timeout=30)
    with contextlib.closing(connection):
        for body in (b"text=" + b"x" * 1_000_000, b"id=after-the-huge-one&status=Success"):
            connection.request("POST", f"/sms/delivery-reports?token={TOKEN}", body)
            # The client connects anew by itself where its peer has said that it closes; here nothing is said.
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"OK")
    # Reports of what other tests have sent may come in between.
    kept = stack.get("/v1/callbacks", kind="report", limit=200).json()["items"]
    outcomes = {entry["body"][:20]: entry["outcome"] for entry in kept}
    assert outcomes["id=after-the-huge-on"] in ("received", "applied")
    assert outcomes["text=" + "x" * 15] == "quarantined"


def test_a_held_text_waits_for_a_person_and_nobody_waits_for_it(stack: Stack) -> None:
    heidi = "+254711000021"
    with opened(stack.environment["DATABASE_URL"]) as database, database.write() as connection:
        ids = enqueue(connection, [NewMessage(heidi, "Held", reference="visit-7")])
        held.hold(connection, ids, "daily_limit", wall_clock(connection), "brake")
    assert stack.post("/v1/messages", {"to": heidi, "text": "Later"}).status_code == 202
    eventually(lambda: stack.ledger(heidi), "the later text arrives")
    (item,) = (one for one in stack.get("/v1/held").json()["items"] if one["to"] == heidi)
    assert stack.get("/v1/messages", reference="visit-7").json()["items"][0]["status"] == "held"

    answer = stack.post(f"/v1/held/{item['id']}/release", None)

    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    eventually(lambda: len(stack.ledger(heidi)) == 2, "the released text arrives")
    assert [one["text"] for one in stack.ledger(heidi)] == ["Later", "Held"]
    assert stack.post(f"/v1/held/{item['id']}/release", None).status_code == 409


def test_the_figures_are_what_the_histories_say(stack: Stack) -> None:
    assert trigger(stack, "+254711000022").status_code == 200

    def agree() -> bool:
        with opened(stack.environment["DATABASE_URL"]) as database, database.read() as connection:
            by_status = select(tables.message_events.c.status, func.count())
            told = {
                row[0]: row[1]
                for row in connection.execute(by_status.group_by(tables.message_events.c.status))
            }
        counts = stack.get("/v1/stats").json()["totals"]["counts"]
        return bool(counts == told and counts.get("delivered"))

    # Both move while reports come in.
    eventually(agree, "counts and histories agree")
