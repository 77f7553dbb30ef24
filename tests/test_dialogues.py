"""Every dialogue a person may have with us, played on the simulator's handset: real processes, both stores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import KINDS, empty_database
from tests.support.stack import SHORTCODE, Stack, eventually

# The reply shows what became of its message, which a worker sends meanwhile.
ON_ITS_WAY = ("queued", "sending", "accepted", "delivered")

pytestmark = pytest.mark.processes

OTHER_NUMBER = "40404"
LOOP_LIMIT = 3
REPLIES = """
import threading
from pathlib import Path

from messaging.conversations.handlers import Inbound, on_keyword

SEEN = Path(__file__).with_name("tried")


@on_keyword("BAL", "BALANCE")
def balance(message: Inbound) -> str:
    return f"Balance of {message.rest or message.sender}: KES 100"


@on_keyword("BOTH")
def both(message: Inbound) -> list[str]:
    return ["first", "second"]


@on_keyword("QUIET")
def quiet(message: Inbound) -> None:
    return None


@on_keyword("ONCEBAD")
def bad_once(message: Inbound) -> str:
    if not SEEN.exists():
        SEEN.touch()
        raise RuntimeError("not yet")
    return "better now"


@on_keyword("SLOW")
def slow_at_first(message: Inbound) -> str:
    begun = Path(__file__).with_name("slow")
    if not begun.exists():
        begun.touch()
        threading.Event().wait(2)
    return "slow but sure"


@on_keyword("HANG")
def hang(message: Inbound) -> str:
    threading.Event().wait()
    return "never"
"""


@contextmanager
def started(kind: str, folder: Path, **settings: str) -> Iterator[Stack]:
    (folder / "replies.py").write_text(REPLIES)
    known = {"REPLIES_FILE": str(folder / "replies.py"), "REPLY_TIMEOUT_SECONDS": "3", "STOP_WORDS": "TOKA"}
    with empty_database(kind, folder) as database_url:
        stack = Stack(folder, database_url, known | settings)
        try:
            stack.start_all()
            yield stack
        finally:
            stack.close()


@pytest.fixture(scope="module", params=KINDS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(request.param, tmp_path_factory.mktemp("dialogues"), LOOP_LIMIT=str(LOOP_LIMIT)) as stack:
        yield stack


_numbers = iter(range(1, 900))


@pytest.fixture
def phone() -> str:
    return f"+2547220{next(_numbers):03d}77"


def write(stack: Stack, phone: str, text: str, **fields: str) -> dict[str, Any]:
    """Sends from the handset; the text as the service shows it, once it is known what its answer becomes."""
    sent = stack.control("inbound", {"from": phone, "text": text, "to": SHORTCODE} | fields)
    return settled(stack, phone, sent["id"])


def settled(stack: Stack, phone: str, provider_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        items = stack.get("/v1/inbound", **{"from": phone}).json()["items"]
        found = [one for one in items if one["provider_inbound_id"] == provider_id]
        return found[0] if found and found[0]["reply"] != "waiting" else None

    found: dict[str, Any] = eventually(look, f"{provider_id} is settled")
    return found


def texts(stack: Stack, phone: str, count: int) -> list[str]:
    eventually(lambda: len(stack.ledger(phone)) >= count, f"{count} texts arrive", seconds=15)
    return [item["text"] for item in stack.ledger(phone)]


@pytest.mark.parametrize("text", ["BAL 7", "balance 7", " ＢＡＬ, 7"])
def test_a_keyword_is_answered_by_its_handler(stack: Stack, phone: str, text: str) -> None:
    assert write(stack, phone, text)["reply"] in ON_ITS_WAY
    assert texts(stack, phone, 1) == ["Balance of 7: KES 100"]


def test_a_handler_may_answer_twice_or_not_at_all(stack: Stack, phone: str) -> None:
    assert write(stack, phone, "quiet")["reply"] == "off"
    write(stack, phone, "both")
    assert sorted(texts(stack, phone, 2)) == ["first", "second"]


@pytest.mark.parametrize("text", ["BALLOON", "my BAL", "what?"])
def test_a_text_that_no_handler_takes_gets_the_template(stack: Stack, phone: str, text: str) -> None:
    write(stack, phone, text)
    assert texts(stack, phone, 1) == [f'This is a response to: "{text}"']


def test_a_handler_that_raises_is_tried_again_and_answers_once(stack: Stack, phone: str) -> None:
    (stack.folder / "tried").unlink(missing_ok=True)
    shown = write(stack, phone, "oncebad")
    assert (shown["reply"] in ON_ITS_WAY, shown["reply_tries"]) == (True, 2)
    assert texts(stack, phone, 1) == ["better now"]


def test_a_handler_that_hangs_stops_neither_sending_nor_other_handlers(stack: Stack, phone: str) -> None:
    for _ in range(10):
        stack.control("inbound", {"from": phone, "text": "hang", "to": SHORTCODE})
    assert stack.post("/v1/messages", {"to": [phone], "text": "still here"}).status_code == 202
    assert "still here" in texts(stack, phone, 1)
    write(stack, phone, "BAL 9")
    assert "Balance of 9: KES 100" in texts(stack, phone, 2)


@pytest.mark.parametrize(
    ("word", "confirmed"),
    [
        ("STOP", "You will get no more texts"),
        ("Acha!", "Hutapokea tena"),
        ("Arrêt", "Vous ne recevrez plus"),
        ("PARAR", "Deixou de receber"),
        ("توقف", "لن تصلك"),
        ("አቁም", "ከእንግዲህ"),
        ("toka", "You will get no more texts"),
    ],
)
def test_stop_in_any_language_is_confirmed_once_and_ends_everything(
    stack: Stack, phone: str, word: str, confirmed: str
) -> None:
    shown = write(stack, phone, word)
    assert (shown["meaning"], shown["reply"] in ON_ITS_WAY) == ("stop", True)
    (text,) = texts(stack, phone, 1)
    assert confirmed in text

    assert write(stack, phone, word)["reply"] == "stop"
    assert stack.get("/sms/invoke-bulk-sms", phone=phone).json()["code"] == "opted_out"
    assert len(stack.ledger(phone)) == 1
    assert [row["status"] for row in stack.messages_to(phone)][-1] in {"accepted", "delivered"}


def test_stop_with_more_behind_it_is_no_stop_and_no_echo(stack: Stack, phone: str) -> None:
    shown = write(stack, phone, "STOP 12345")
    assert (shown["meaning"], shown["possible_opt_out"], shown["reply"]) == (
        "message",
        True,
        "possible_opt_out",
    )
    assert write(stack, phone, "hello")["reply"] in ON_ITS_WAY
    assert texts(stack, phone, 1) == ['This is a response to: "hello"']


def test_a_text_after_stop_is_neither_answered_nor_a_way_back(stack: Stack, phone: str) -> None:
    write(stack, phone, "STOP")
    for text in ("hello?", "BAL 1", "HELP"):
        assert write(stack, phone, text)["reply"] == "opted_out"
    assert len(texts(stack, phone, 1)) == 1


def test_start_undoes_stop_and_is_confirmed_once(stack: Stack, phone: str) -> None:
    write(stack, phone, "STOP")
    assert write(stack, phone, "anza")["reply"] in ON_ITS_WAY
    write(stack, phone, "BAL 2")
    assert [text[:20] for text in texts(stack, phone, 3)] == [
        "You will get no more",
        "Utapokea tena ujumbe",
        "Balance of 2: KES 10",
    ]


def test_start_does_not_undo_what_the_network_has_blocked(stack: Stack, phone: str) -> None:
    stack.control("opt-out", {"phoneNumber": phone, "senderId": SHORTCODE})
    eventually(lambda: stack.get("/v1/opt-outs", phone=phone).json()["items"], "the opt-out is in the ledger")
    assert write(stack, phone, "START")["reply"] == "opted_out"
    lifted = stack.session.delete(
        f"{stack.web_url}/v1/opt-outs/{phone}", headers=stack_headers(stack), timeout=30
    ).json()
    assert (lifted["lifted"], lifted["elsewhere"]["dial"]) == (1, "*456*9#")


def test_help_says_how_to_leave(stack: Stack, phone: str) -> None:
    write(stack, phone, "help?")
    assert texts(stack, phone, 1) == ["Reply STOP to end our texts, START to get them again."]


def test_an_on_demand_text_is_answered_with_its_link(stack: Stack, phone: str) -> None:
    write(stack, phone, "BAL 3", linkId="SampleLinkId7")
    assert texts(stack, phone, 1) == ["Balance of 3: KES 100"]
    # What AT bills by the link, it does not bill to us.
    assert eventually(lambda: stack.messages_to(phone)[0]["cost"], "AT has answered")["amount"] == "0"


def test_two_phones_that_echo_each_other_fall_silent_and_can_be_released(stack: Stack, phone: str) -> None:
    other = f"{phone[:-2]}78"
    answered = dict.fromkeys((phone, other), 0)
    for machine in answered:
        write(stack, machine, "ping")

    def echo_all() -> bool:
        new = 0
        for machine in answered:
            for item in stack.ledger(machine)[answered[machine] :]:
                answered[machine] += 1
                new += 1
                write(stack, machine, item["text"])
        return new > 0

    deadline = time.monotonic() + 60
    while echo_all() or held(stack, phone) is None or held(stack, other) is None:
        assert time.monotonic() < deadline, "the loop goes on"
        time.sleep(0.05)

    for machine in answered:
        said = [item["text"] for item in stack.ledger(machine)]
        assert max(said.count(text) for text in said) == LOOP_LIMIT
    shown = held(stack, phone)
    assert shown is not None
    before = len(stack.ledger(phone))
    released = stack.post(f"/v1/inbound/{shown['id']}/release", {})
    assert (released.status_code, released.json()["reply"]) == (200, "queued")
    assert texts(stack, phone, before + 1)[-1] == shown["held_texts"][0]
    assert stack.post(f"/v1/inbound/{shown['id']}/release", {}).status_code == 409


def held(stack: Stack, phone: str) -> dict[str, Any] | None:
    items: list[dict[str, Any]] = stack.get("/v1/inbound", **{"from": phone, "reply": "held"}).json()["items"]
    return items[0] if items else None


def test_a_conversation_shows_both_directions_and_is_answered_by_a_person(stack: Stack, phone: str) -> None:
    write(stack, phone, "BAL 4", to=OTHER_NUMBER, date="2017-05-03 06:04:45")
    texts(stack, phone, 1)
    write(stack, phone, "QUIET please")
    path = f"/v1/conversations/{phone}"
    listed = stack.get("/v1/conversations", unread="true").json()["items"][0]
    assert (listed["phone"], listed["unread"], listed["number"]) == (phone, 2, SHORTCODE)

    said = stack.post(f"{path}/messages", {"text": "A person here"}, **{"Idempotency-Key": f"say-{phone}"})
    again = stack.post(f"{path}/messages", {"text": "A person here"}, **{"Idempotency-Key": f"say-{phone}"})

    assert (said.status_code, said.json()) == (202, again.json())
    assert said.json()["sender_id"] == SHORTCODE
    assert texts(stack, phone, 2)[-1] == "A person here"
    shown = stack.get(path).json()["items"]
    assert [(one["direction"], one["text"]) for one in shown] == [
        ("out", "A person here"),
        ("in", "QUIET please"),
        ("out", "Balance of 4: KES 100"),
        ("in", "BAL 4"),
    ]
    assert shown[-1]["provider_date"] == "2017-05-03 06:04:45"
    assert stack.post(f"{path}/read", {}).json() == {"unread": 0}
    assert stack.get(path).json()["unread"] == 0


def stack_headers(stack: Stack) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.environment['API_KEYS']}"}


def test_the_records_are_right_after_all_that(stack: Stack) -> None:
    audited = stack.get("/v1/audit").json()
    assert audited["problems"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_in_the_scope_of_one_number_leaves_the_other_alone(
    kind: str, tmp_path: Path, phone: str
) -> None:
    with started(kind, tmp_path, STOP_SCOPE="sender") as stack:
        assert write(stack, phone, "STOP", to=OTHER_NUMBER)["reply"] in ON_ITS_WAY
        assert write(stack, phone, "BAL 1", to=OTHER_NUMBER)["reply"] == "opted_out"
        assert write(stack, phone, "BAL 2")["reply"] in ON_ITS_WAY
        # A START to the other number lifts nothing here, so it is an ordinary text there.
        assert write(stack, phone, "START")["reply"] in ON_ITS_WAY
        assert write(stack, phone, "BAL 3", to=OTHER_NUMBER)["reply"] == "opted_out"
        assert write(stack, phone, "START", to=OTHER_NUMBER)["reply"] in ON_ITS_WAY
        assert write(stack, phone, "BAL 4", to=OTHER_NUMBER)["reply"] in ON_ITS_WAY
        texts(stack, phone, 5)
        assert sorted(item["from"] for item in stack.ledger(phone)) == [SHORTCODE] * 2 + [OTHER_NUMBER] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_killed_while_a_handler_runs_loses_no_text_and_answers_none_twice(
    kind: str, tmp_path: Path, phone: str
) -> None:
    with started(kind, tmp_path) as stack:
        sent = stack.control("inbound", {"from": phone, "text": "SLOW", "to": SHORTCODE})
        eventually(lambda: (tmp_path / "slow").exists(), "the handler runs")
        stack.kill("worker")
        stack.start("worker")
        shown = settled(stack, phone, sent["id"])
        assert (shown["reply"] in ON_ITS_WAY, shown["reply_tries"]) == (True, 2)
        assert texts(stack, phone, 1) == ["slow but sure"]
