"""Coming in, going out, and who may see and do what."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask.testing import FlaskClient
from flask_openapi.openapi import OpenAPI
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from messaging import statuses
from messaging.access import keys, operators, sessions
from messaging.access.operators import Operator
from messaging.consent import consents
from messaging.consent import views as opt_out_views
from messaging.messages import status_counts, status_events
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from routes.dashboard.words import of_tone, without_report
from routes.expensive_calls import SLOTS
from tests.routes.conftest import MakeApp
from tests.routes.test_guards import calls, example_path
from tests.support import delivery
from tests.support.web import Caller
from utils.errors import AcceptanceUnknown, Recovering

PASSWORD = "correct horse battery"
FIRST = "the-password-of-the-settings"
TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
ANYBODYS = {"show_login", "log_in", "show_choose_password", "choose_password"}
# The least role for each page and form; what is not named is an admin's.
VIEWERS = {
    *("show_settings", "change_password", "end_session", "log_out"),
    *(
        "show_overview",
        "show_balance",
        "show_sends",
        "show_send",
        "show_send_progress",
        "show_reasons",
        "show_messages",
        "show_message",
    ),
    *("show_held", "show_opt_outs", "show_consents", "show_health"),
}
SENDERS = {
    *(
        "show_new_send",
        "check_send",
        "download_unsent_refused",
        "download_unsent_duplicates",
        "begin_send",
        "measure_text",
        "pause_send",
        "resume_send",
        "cancel_send",
    ),
    *(
        "show_refused",
        "download_refused",
        "download_duplicates",
        "download_messages",
        "download_undelivered",
        "download_opt_outs",
    ),
    *("resend_message", "close_message"),
    *(
        "show_conversations",
        "show_conversation",
        "show_people",
        "show_texts",
        "show_person",
        "find_person",
        "reply",
        "mark_read",
        "stop_texting",
    ),
    *("add_opt_out", "withdraw_consent"),
}
APPROVERS = {"release_held", "cancel_held", "release_message", "cancel_message", "release_reply"}


def least_role(endpoint: str) -> str:
    name = endpoint.partition(".")[2]
    named = (("viewer", VIEWERS), ("sender", SENDERS), ("approver", APPROVERS))
    return next((role for role, names in named if name in names), "admin")


class Visitor:
    """A browser without scripts: it sends back the token of the form that it was shown."""

    def __init__(self, app: OpenAPI) -> None:
        self.client: FlaskClient = app.test_client()

    def post(self, page: str, path: str | None = None, **fields: str) -> Any:
        shown = self.client.get(page).text
        token = TOKEN.search(shown)
        known = {"csrf_token": token[1]} if token else {}
        return self.client.post(path or page, data=known | fields)

    def log_in(self, name: str, password: str, **more: str) -> Any:
        return self.post("/login", name=name, password=password, **more)


@pytest.fixture
def visitor(app: OpenAPI) -> Visitor:
    return Visitor(app)


def add(database: Database, name: str, role: str) -> None:
    operators.use_link(database, operators.add(database, name, role), PASSWORD)


def test_a_page_leads_to_the_login_and_back(visitor: Visitor) -> None:
    led = visitor.client.get("/settings/keys?x=1")
    assert (led.status_code, led.headers["Location"]) == (303, "/login?next=/settings/keys?x%3D1")
    came = visitor.log_in("admin", FIRST, next="/settings/keys?x=1")
    assert (came.status_code, came.headers["Location"]) == (303, "/settings/keys?x=1")
    assert visitor.client.get("/settings/keys").status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/\t/[evil",
        "javascript:alert(1)",
        "",
        "settings",
    ],
)
def test_a_login_leads_to_no_other_site(visitor: Visitor, wanted: str) -> None:
    assert visitor.log_in("admin", FIRST, next=wanted).headers["Location"] == "/settings"


def test_a_wrong_password_says_so_and_keeps_the_name(visitor: Visitor) -> None:
    answer = visitor.log_in("admin", "wrong")
    assert answer.status_code == 400
    assert "Name or password is wrong" in answer.text
    assert 'value="admin"' in answer.text
    assert "wrong" not in re.findall(r'<input[^>]*type="password"[^>]*>', answer.text)[0]


def test_too_many_wrong_ones_are_told_to_wait(visitor: Visitor) -> None:
    answers = [visitor.log_in("admin", "wrong").status_code for _ in range(6)]
    assert answers == [400] * 5 + [429]
    assert "wait 30 seconds" in visitor.log_in("admin", FIRST).text


def test_the_cookie_is_no_scripts_and_changes_at_login(visitor: Visitor) -> None:
    visitor.client.get("/login")
    before = visitor.client.get_cookie("sms_session")
    cookie = visitor.log_in("admin", FIRST).headers["Set-Cookie"]
    after = visitor.client.get_cookie("sms_session")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert before is not None
    assert after is not None
    assert before.value != after.value


def test_who_logs_out_is_out(visitor: Visitor, database: Database) -> None:
    visitor.log_in("admin", FIRST)
    kept = visitor.client.get_cookie("sms_session")
    assert kept is not None
    assert visitor.post("/settings", "/logout").status_code == 303
    assert sessions.list_sessions(database) == []
    # The old cookie opens nothing either.
    visitor.client.set_cookie("sms_session", kept.value)
    assert visitor.client.get("/settings").status_code == 303


def test_a_link_sets_a_password_and_lets_in(visitor: Visitor, database: Database) -> None:
    link = f"/password/{operators.add(database, 'ann', 'viewer')}"
    differ = visitor.post(link, password=PASSWORD, password_again="another password")
    assert (differ.status_code, "passwords differ" in differ.text) == (400, True)
    short = visitor.post(link, password="short", password_again="short")
    assert (short.status_code, "between 12 and 200" in short.text) == (400, True)
    assert visitor.post(link, password=PASSWORD, password_again=PASSWORD).status_code == 303
    assert "You are <strong>ann</strong>" in visitor.client.get("/settings").text
    used = visitor.client.get(link)
    assert (used.status_code, "used already" in used.text) == (404, True)


@pytest.mark.parametrize("role", operators.ROLES)
def test_each_role_sees_and_does_what_it_may_and_nothing_else(
    app: OpenAPI, database: Database, visitor: Visitor, role: str
) -> None:
    add(database, "ann", role)
    ours = [(method, rule) for method, rule in calls(app) if rule.endpoint.startswith("dashboard.")]
    ours = [(method, rule) for method, rule in ours if rule.endpoint.partition(".")[2] not in ANYBODYS]
    assert len(ours) >= 12
    for method, rule in ours:
        # Some end the session. A login costs a tenth of a second, so it is not repeated for each.
        if visitor.client.get("/settings").status_code == 303:
            visitor.log_in("ann", PASSWORD)
        csrf = TOKEN.search(visitor.client.get("/settings").text)
        assert csrf is not None
        answer = visitor.client.open(example_path(rule), method=method, data={"csrf_token": csrf[1]})
        is_allowed = operators.ROLES.index(role) >= operators.ROLES.index(least_role(rule.endpoint))
        assert (answer.status_code == 403) is not is_allowed, (method, rule.rule, answer.text)


def test_a_form_without_its_token_does_nothing_and_shows_what_was_typed(
    visitor: Visitor, database: Database
) -> None:
    visitor.log_in("admin", FIRST)
    typed = {"name": "ann", "role": "sender", "password": "not-to-be-shown"}
    answer = visitor.client.post("/settings/operators", data=typed)
    assert answer.status_code == 400
    assert "Nothing was done" in answer.text
    assert ">ann</textarea>" in answer.text
    assert "not-to-be-shown" not in answer.text
    assert operators.list_operators(database) == []


def test_a_session_that_ended_while_somebody_typed_loses_nothing(
    visitor: Visitor, database: Database
) -> None:
    visitor.log_in("admin", FIRST)
    visitor.client.get("/settings/operators")
    (session,) = sessions.list_sessions(database)
    sessions.end(database, session["id"])
    answer = visitor.client.post("/settings/operators", data={"name": "ann", "role": "sender"})
    assert (answer.status_code, ">ann</textarea>" in answer.text) == (400, True)
    assert operators.list_operators(database) == []


def test_a_key_is_shown_once_and_not_kept_in_the_cookie(
    app: OpenAPI, visitor: Visitor, database: Database
) -> None:
    visitor.log_in("admin", FIRST)
    made = visitor.post("/settings/keys", name="billing", scope="send", expires="2999-01-31")
    key = re.search(r"sms_[\w-]{32}", made.text)
    assert key is not None
    assert keys.KeyRing(database, ()).find(key[0]) is not None
    assert key[0] not in visitor.client.get("/settings/keys").text
    assert "Set-Cookie" not in made.headers
    assert visitor.post("/settings/keys", "/settings/keys/billing/revoke").status_code == 303
    assert keys.KeyRing(database, ()).find(key[0]) is None
    actions = visitor.client.get("/settings/actions").text
    assert "operator:admin" in actions
    assert "key.revoke" in actions


def test_the_limit_of_a_key_is_changed_on_its_page(visitor: Visitor, database: Database) -> None:
    keys.create(database, "billing", ["send"], daily_limit="KES 5000")
    visitor.log_in("admin", FIRST)
    assert 'value="KES 5000"' in visitor.client.get("/settings/keys").text
    change = "/settings/keys", "/settings/keys/billing/limit"
    assert visitor.post(*change, daily_limit=" KES 9000 ").status_code == 303
    assert 'value="KES 9000"' in visitor.client.get("/settings/keys").text
    assert visitor.post(*change, daily_limit="").status_code == 303
    assert [one["daily_limit"] for one in keys.list_keys(database)] == [None]
    wrong = visitor.post(*change, daily_limit="much")
    assert (wrong.status_code, "like KES 5000" in wrong.text) == (400, True)
    assert "key.limit" in visitor.client.get("/settings/actions").text


def test_a_mistake_in_a_form_is_a_page_with_a_sentence(visitor: Visitor) -> None:
    visitor.log_in("admin", FIRST)
    answer = visitor.post("/settings/operators", name="Not A Name", role="sender")
    assert (answer.status_code, "A name has up to 40" in answer.text) == (400, True)
    missing = visitor.post("/settings/operators", "/settings/operators/nobody/disable")
    assert (missing.status_code, "There is no operator" in missing.text) == (404, True)


def test_the_page_does_not_disable_the_last_admin(visitor: Visitor, database: Database) -> None:
    operators.change_password(database, Operator("admin", "admin"), FIRST, PASSWORD, FIRST)
    visitor.log_in("admin", PASSWORD)
    for change, fields in (("disable", {}), ("role", {"role": "viewer"})):
        refused = visitor.post("/settings/operators", f"/settings/operators/admin/{change}", **fields)
        assert (refused.status_code, "make another person one first" in refused.text) == (409, True)
    assert visitor.client.get("/settings/operators").status_code == 200


def test_what_an_operator_sends_names_the_operator_and_not_the_one_before(
    visitor: Visitor, caller: Caller
) -> None:
    visitor.log_in("admin", FIRST)
    visitor.client.get("/settings")
    caller.post("/v1/messages", {"to": "+254711000002", "text": "hello"})
    assert [one["created_by"] for one in caller.messages()] == ["key:environment"]


def test_offline_nobody_logs_in_until_somebody_is_set(make_app: MakeApp, database: Database) -> None:
    offline = {"at_username": None, "at_api_key": None, "api_keys": (), "webhook_tokens": ()}
    client = make_app(**offline).test_client()
    assert client.get("/settings/operators").status_code == 200
    operators.add(database, "ann", "admin")
    assert client.get("/settings/operators").status_code == 303


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser.new_page()
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_can_be_read_by_everybody_on_every_screen(
    served: str, page: Page, database: Database, scheme: Any
) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on(
        "request", lambda request: complaints.extend([request.url] * (not request.url.startswith(served)))
    )
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{served}/settings/operators")
    look(page)
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(FIRST)
    page.get_by_role("button", name="Log in").click()
    page.get_by_label("Name, as it will stand in lists").fill("ann")
    page.get_by_role("button", name="Add and show the link").click()
    page.get_by_text("It is shown this once").wait_for()
    look(page)
    keys.create(database, "billing", ["read"])
    for path in ("/settings", "/settings/operators", "/settings/keys", "/settings/actions", "/password/used"):
        page.goto(f"{served}{path}")
        look(page)
    assert [one for one in complaints if "404" not in one] == []


def look(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_token_of_callbacks_is_shown_to_admins_alone(make_app: MakeApp, database: Database) -> None:
    """Whoever has it can say in Africa's Talking's name who opted out and what arrived."""
    token = "a-token-that-is-long-enough&more"
    app = make_app(dashboard_password=FIRST, secret_key="a-key", webhook_tokens=(token,))
    shown = {}
    for role in ("viewer", "approver", "admin"):
        add(database, f"{role}s", role)
        visitor = Visitor(app)
        visitor.log_in(f"{role}s", PASSWORD)
        shown[role] = "long-enough" in visitor.client.get("/health").text
    assert shown == {"viewer": False, "approver": False, "admin": True}


def test_the_health_page_waits_its_turn(app: OpenAPI, visitor: Visitor) -> None:
    """It asks Africa's Talking and tries the disk: a few at a time, so that threads are left for callbacks."""
    visitor.log_in("admin", FIRST)
    while app.extensions[SLOTS].acquire(blocking=False):
        pass
    assert visitor.client.get("/health").status_code == 503
    app.extensions[SLOTS].release()
    assert visitor.client.get("/health").status_code == 200


def test_the_end_of_a_session_is_named_in_plain_text(visitor: Visitor) -> None:
    visitor.log_in("admin", FIRST)
    Visitor(visitor.client.application).log_in("admin", FIRST)  # type: ignore[arg-type]
    shown = visitor.client.get("/settings").text
    assert "End the session of admin since 20" in shown


def test_a_nul_is_refused_wherever_it_is_typed(app: OpenAPI, visitor: Visitor) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert visitor.post("/login", name="a\0b", password="x").status_code == 400
    visitor.log_in("admin", FIRST)
    for path in (
        *("/settings/actions?actor=%00", "/callbacks?kind=%00&outcome=%00"),
        *("/messages?q=reference:%00", "/messages?q=by:x%00"),
    ):
        assert visitor.client.get(path).status_code == 400
    for path in ("/settings/operators/a%00/link", "/settings/keys/a%00/revoke"):
        assert visitor.post("/settings", path).status_code == 400
    assert visitor.post("/opt-outs", phone="+254711000001", reason="x\0").status_code == 400
    assert visitor.client.get("/opt-outs").status_code == 200


@pytest.mark.parametrize("typed", ["after:0001-01-01", "before:9999-12-31", "batch:" + "9" * 5000])
def test_a_search_far_out_of_range_is_no_failure(app: OpenAPI, visitor: Visitor, typed: str) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    visitor.log_in("admin", FIRST)
    assert visitor.client.get("/messages", query_string={"q": typed}).status_code in (200, 400)


def test_a_consent_is_written_down_found_and_withdrawn_on_its_page(
    visitor: Visitor, database: Database
) -> None:
    visitor.log_in("admin", FIRST)
    said = {"wording": "Send me offers", "source": "signup form", "sender_id": "ACME"}
    assert visitor.post("/consents", phone="+254711000701", **said).status_code == 303
    shown = visitor.client.get("/consents?phone=%2B254711000701").text
    assert "Send me offers" in shown
    assert "signup form" in shown
    assert visitor.client.get("/consents?phone=nobody").status_code == 400
    answer = visitor.post("/consents", "/consents/+254711000701/withdraw", sender_id="ACME")
    assert answer.status_code == 303
    assert consents.list_consents(database, in_force=True)["items"] == []
    assert "withdrew" in visitor.client.get("/consents?all=1").text


def test_behind_an_https_proxy_the_forms_of_the_pages_count_and_those_of_others_do_not(
    make_app: MakeApp, database: Database
) -> None:
    """There a form needs a `Referer` of ours: what the page allows the browser to say decides."""
    proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9"}
    settings = {"public_url": "https://sms.example.org", "trusted_proxies": ("127.0.0.0/8",)}
    client = make_app(dashboard_password=FIRST, secret_key="a-key", **settings).test_client()
    about = {"base_url": "https://sms.example.org", "headers": proxy}
    shown = client.get("/login", **about)  # type: ignore[arg-type]
    assert shown.headers["Referrer-Policy"] == "strict-origin"
    token = TOKEN.search(shown.text)
    assert token is not None
    typed = {"csrf_token": token[1], "name": "admin", "password": FIRST}
    for referrer, status in ((None, 400), ("https://evil.example/", 400), ("https://sms.example.org/", 303)):
        said = proxy | ({"Referer": referrer} if referrer else {})
        answer = client.post("/login", base_url="https://sms.example.org", data=typed, headers=said)
        assert answer.status_code == status, referrer


def test_what_is_no_page_names_no_referrer(visitor: Visitor) -> None:
    for path in ("/healthz", "/v1/messages", "/docs"):
        assert visitor.client.get(path).headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        ({}, "192.0.2.7"),
        ({"Host": "evil.example"}, "127.0.0.1"),
        ({"Sec-Fetch-Site": "cross-site"}, "127.0.0.1"),
        ({"X-Forwarded-For": "127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_pages_that_nobody_guards_are_for_this_machine_alone_with_keys_too(
    make_app: MakeApp, headers: dict[str, str], peer: str
) -> None:
    client = make_app(at_username=None, at_api_key=None).test_client()
    about = {"headers": {"Host": "127.0.0.1:8000"} | headers, "environ_base": {"REMOTE_ADDR": peer}}
    for path in ("/", "/settings/keys", "/login"):
        refused = client.get(path, **about)  # type: ignore[arg-type]
        assert refused.status_code == 403
        assert "DASHBOARD_PASSWORD and operators" in refused.text
    assert client.post("/settings/keys", **about).status_code == 403  # type: ignore[arg-type]
    assert client.get("/settings/keys", headers={"Host": "127.0.0.1:8000"}).status_code == 200


def test_a_head_of_a_page_is_no_form(app: OpenAPI, visitor: Visitor, database: Database) -> None:
    led = visitor.client.head("/settings")
    assert (led.status_code, led.headers["Location"]) == (303, "/login?next=/settings")
    add(database, "ann", "viewer")
    visitor.log_in("ann", PASSWORD)
    assert visitor.client.head("/").status_code == 200
    assert visitor.client.head("/settings/keys").status_code == 403


def test_errors_of_pages_keep_their_status(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.log_in("admin", FIRST)
    visitor.post("/settings/operators", name="ann", role="sender")
    taken = visitor.post("/settings/operators", name="ann", role="sender")
    assert (taken.status_code, "There is an operator" in taken.text) == (409, True)
    raised = [
        (Recovering(), 503, "Nothing was changed"),
        (AcceptanceUnknown(), 503, "may have been done"),
        (OperationalError("SELECT 1", {}, Exception("away")), 503, "The database cannot be used now"),
    ]
    for error, status, words in raised:

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(operators, "add", fail)
        answer = visitor.post("/settings/operators", name="ben", role="sender")
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
        assert "Idempotency-Key" not in answer.text
        assert ("Nothing was changed" in answer.text) is not isinstance(error, AcceptanceUnknown)


@pytest.mark.parametrize("far", ["0001-01-01", "9999-12-31"])
def test_a_time_at_the_ends_of_the_calendar_is_a_page_with_a_sentence(
    app: OpenAPI, visitor: Visitor, far: str
) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    visitor.log_in("admin", FIRST)
    made = visitor.post("/settings/keys", name="billing", scope="send", expires=far)
    assert (made.status_code, "too far away" in made.text) == (400, True)
    typed = {"numbers": "+254711000001", "text": "Hello", "send_at": f"{far}T00:00"}
    checked = visitor.post("/sends/new", "/sends/check", **typed)
    assert (checked.status_code, "too far away" in checked.text) == (400, True)


def test_a_mistake_is_said_once(visitor: Visitor) -> None:
    visitor.log_in("admin", FIRST)
    assert visitor.client.get("/consents?phone=nonsense").text.count('role="alert"') == 1
    assert visitor.post("/sends/new", "/sends/check", text="Hello").text.count('role="alert"') == 1


def test_older_texts_stay_where_they_are_while_new_ones_come(visitor: Visitor, caller: Caller) -> None:
    """What is polled is the latest page: it took the place of the older one that somebody was reading."""
    for number in range(31):
        said = {"from": "+254711000001", "to": "20880", "text": f"Text {number}", "id": f"in-{number}"}
        assert caller.callback("/sms/twoway", said).status_code == 200
    visitor.log_in("admin", FIRST)
    latest = visitor.client.get("/conversations/+254711000001").text
    older = re.search(r'href="([^"]+)">Older texts', latest)
    assert older is not None
    polled = re.compile(r'data-poll="[^"]*/texts"')
    assert polled.search(latest)
    shown = visitor.client.get(html.unescape(older[1])).text
    assert "Text 0<" in shown
    assert polled.search(shown) is None


def test_a_held_answer_is_sent_from_the_page_of_its_person_by_who_may(
    app: OpenAPI, database: Database, caller: Caller
) -> None:
    said = {"from": "+254711000001", "to": "20880", "text": "Hello?", "id": "in-1"}
    assert caller.callback("/sms/twoway", said).status_code == 200
    with database.write() as connection:
        held = {"reply_outcome": "held", "held_texts": '["We open at eight"]'}
        connection.execute(update(tables.inbound_messages).values(**held))
    path = re.compile(r'action="(/inbound/\d+/release)"')
    for name, role in (("sam", "sender"), ("ann", "approver")):
        add(database, name, role)
        visitor = Visitor(app)
        visitor.log_in(name, PASSWORD)
        found = path.search(visitor.client.get("/people/+254711000001").text)
        assert (found is not None) is (role == "approver")
    assert found is not None
    assert visitor.post("/people/+254711000001", found[1]).status_code == 303
    assert "We open at eight" in [one["text"] for one in caller.messages()]
    assert path.search(visitor.client.get("/people/+254711000001").text) is None


def test_what_was_not_delivered_is_one_sum_on_every_page(visitor: Visitor, database: Database) -> None:
    counts = dict.fromkeys(statuses.ALL, 1)
    assert of_tone(counts, "bad") == 3
    batch = delivery.queue_batch(database, delivery.phones(3))
    for message_id, status in enumerate(("failed", "rejected", "expired"), start=1):
        delivery.change(database, tables.messages, message_id, status=status, network="63902")
    with database.write() as connection:
        now = wall_clock(connection)
        happened = [
            status_events.Event(one, now, status, "report")
            for one, status in ((1, "failed"), (2, "rejected"), (3, "expired"))
        ]
        status_counts.append_from_rows(connection, happened)
    assert batch == 1
    visitor.log_in("admin", FIRST)
    cell = '<td class="number">3'
    # All texts, and those not delivered.
    assert without_links(visitor.client.get("/sends").text).count(cell) == 2
    overview = without_links(visitor.client.get("/").text)
    days, networks = overview.split('<h2 id="networks">')
    assert cell in days
    assert cell in networks


def without_links(page: str) -> str:
    return re.sub(r">\s+", ">", re.sub(r"</?a\b[^>]*>", "", page))


def figures_of(page: str) -> dict[str, int]:
    """By where each leads."""
    links = re.findall(r'<a href="(/messages\?q=[^"]*)">([\d,]+)</a>', page)
    return {html.unescape(path): int(shown.replace(",", "")) for path, shown in links}


def listed_at(visitor: Visitor, path: str) -> int:
    return len(re.findall(r'<td><a href="/messages/\d+"', visitor.client.get(path).text))


def happen(database: Database, *happened: tuple[int, str], days_ago: int = 0, **values: Any) -> None:
    """Messages come to a status, as a worker or a report writes it."""
    for message_id, status in happened:
        delivery.change(database, tables.messages, message_id, status=status, **values)
    with database.write() as connection:
        at = wall_clock(connection) - timedelta(days=days_ago)
        events = [status_events.Event(one, at, status, "report") for one, status in happened]
        status_events.record(connection, events)


def test_the_figures_of_the_first_page_lead_to_the_texts_that_they_count(
    visitor: Visitor, database: Database
) -> None:
    delivery.queue_batch(database, delivery.phones(5))
    happen(database, *((one, "accepted") for one in (1, 2, 3, 4)))
    happen(database, (1, "delivered"), (2, "delivered"), (3, "failed"))
    visitor.log_in("admin", FIRST)
    page = visitor.client.get("/").text
    assert "2 delivered, 1 not delivered, 1 without a report yet" in page
    heights = [float(one) for one in re.findall(r'<rect class="\w+" x="0"[^>]* height="([\d.]+)"', page)]
    assert heights == [50.0, 25.0, 25.0]
    found = figures_of(page)
    assert len(found) > 6
    assert {path: listed_at(visitor, path) for path in found} == found


def test_every_number_of_every_page_of_figures_is_a_link_to_so_many_texts(
    visitor: Visitor, database: Database
) -> None:
    for phones in (8, 4):
        delivery.queue_batch(database, delivery.phones(phones))
    old = datetime.now(UTC) - timedelta(days=6)
    for one in range(1, 9):
        delivery.change(database, tables.messages, one, created_at=old)
    happen(database, *((one, "accepted") for one in range(1, 6)), days_ago=5, sender_id="CLINIC")
    happen(database, (1, "delivered"), (2, "delivered"), days_ago=4, network="63902", sender_id="CLINIC")
    why = {"reason": "absent_subscriber", "network": "63903", "sender_id": "CLINIC"}
    happen(database, (3, "failed"), days_ago=3, **why)
    happen(database, (4, "failed"), (5, "expired"), days_ago=1, **why)
    happen(database, (6, "rejected"), (7, "blocked"), reason="invalid_phone", sender_id=None)
    happen(database, (8, "unknown"), reason="timed_out", sender_id=None)
    happen(database, *((one, "accepted") for one in (9, 10)), sender_id="Two words")
    # On another day than it was taken: it counts on both, and is still one text.
    happen(database, (9, "delivered"), network='of a "new" kind', sender_id="Two words")
    visitor.log_in("admin", FIRST)
    for path, least in (("/", 20), ("/sends", 6), ("/sends/1", 6), ("/sends/2", 4), ("/sends/1/reasons", 5)):
        page = visitor.client.get(path).text
        found = figures_of(page)
        assert {one: listed_at(visitor, one) for one in found} == found, path
        assert len(found) >= least, (path, found)
    # None of them stands there without its link, but for nothing at all.
    page = visitor.client.get("/").text + visitor.client.get("/sends").text
    bare = re.findall(r'<td class="number">\s*([\d,]+)', re.sub(r"<small.*?</small>", "", page))
    assert set(bare) == {"0"}


def test_what_left_and_has_no_report_is_never_less_than_nothing() -> None:
    assert without_report({"accepted": 3, "delivered": 1, "failed": 1, "rejected": 4}) == 1
    assert without_report({"accepted": 1, "delivered": 5}) == 0


def test_a_state_is_chosen_beside_what_was_searched_for(visitor: Visitor, database: Database) -> None:
    delivery.queue_batch(database, delivery.phones(3))
    delivery.change(database, tables.messages, 2, status="failed")
    delivery.queue(database, delivery.phone(9))
    visitor.log_in("admin", FIRST)
    page = visitor.client.get("/messages", query_string={"q": "batch:1 status:queued"}).text
    pills = page.partition('<nav class="pills"')[2].partition("</nav>")[0]
    (shown,) = re.findall(r'<a href="([^"]*)" aria-current', pills)
    assert "status:queued" in shown
    for words, ids in (("not delivered", ["2"]), ("waiting", ["3", "1"]), ("all", ["3", "2", "1"])):
        (path,) = re.findall(rf'<a href="([^"]*)"[^>]*>(?:<span[^>]*>)?{words}<', pills)
        listed = visitor.client.get(html.unescape(path)).text
        assert re.findall(r'<td><a href="/messages/(\d+)"', listed) == ids, words


def test_who_only_looks_finds_no_number_on_a_page_nor_in_a_link(
    app: OpenAPI, visitor: Visitor, database: Database
) -> None:
    numbers = [delivery.phone(number) for number in range(1, 5)]
    delivery.queue_batch(database, numbers[:2])
    delivery.change(database, tables.messages, 2, status="held", reason="recovery")
    opt_out_views.stop(database, numbers[2], None, "told us", "operator")
    consents.give(database, numbers[3], None, consents.Terms("form", wording="Send me offers"))
    shown = {}
    for name, role in (("vera", "viewer"), ("sam", "sender")):
        add(database, name, role)
        visitor = Visitor(app)
        visitor.log_in(name, PASSWORD)
        seen, waiting, pages = {"/docs"}, ["/"], ""
        while waiting:
            path = waiting.pop()
            pages += visitor.client.get(path).text
            links = re.findall(r'(?:href|action|data-poll)="(/[^"#]*)', pages)
            new = {html.unescape(one) for one in links} - seen
            new = {
                one for one in new if not one.startswith(("/static", "/docs", "/v1")) and "status:" not in one
            }
            seen |= new
            waiting += sorted(new)
        shown[role] = [one for one in numbers if one.removeprefix("+") in pages]
    assert shown == {"viewer": [], "sender": numbers}


def test_a_possible_wish_to_stop_asks_until_somebody_decided(visitor: Visitor, caller: Caller) -> None:
    def comes(text: str, number: int) -> None:
        said = {"from": "+254711000001", "to": "20880", "text": text, "id": f"in-{number}"}
        assert caller.callback("/sms/twoway", said).status_code == 200

    def asks() -> bool:
        page = visitor.client.get(path).text
        asked = re.search(r"data-asks( hidden)?", page)
        assert asked is not None
        # What is polled decides the same.
        assert ("data-doubt" in visitor.client.get(f"{path}/texts").text) is (asked[1] is None)
        return asked[1] is None

    path = "/conversations/+254711000001"
    visitor.log_in("admin", FIRST)
    comes("Hello", 1)
    assert not asks()
    comes("please do not stop, thank you", 2)
    assert asks()
    assert "may be a wish to stop" in visitor.client.get("/conversations").text
    seen = re.search(r'name="up_to" value="(\d+)"', visitor.client.get(path).text)
    assert seen is not None
    comes("do not stop either", 3)
    visitor.post(path, f"{path}/read", up_to=seen[1])
    # The last one came after the page was shown.
    assert asks()
    visitor.post(path, f"{path}/read")
    assert not asks()
    assert visitor.client.get(path).text.count(">may be a wish to stop<") == 2


def test_the_counter_counts_the_way_out_of_a_promotional_sender(make_app: MakeApp) -> None:
    """An answer in a conversation, which names no sender, has none."""
    classes = {"ACME": "promotional"}
    about = {"dashboard_password": FIRST, "secret_key": "a-key-that-signs-cookies"}
    visitor = Visitor(make_app(**about, at_sender_id="acme", sender_classes=classes))
    visitor.log_in("admin", FIRST)
    assert "adds “STOP to 20880”" in html.unescape(visitor.client.get("/sends/new").text)

    def measured(**fields: str) -> Any:
        return visitor.post("/sends/new", "/sends/measure", **fields).json

    text = "x" * 150
    assert measured(text=text, sender_id="ACME")["parts"] == measured(text=text, sender_id="")["parts"] == 2
    assert measured(text=text)["parts"] == measured(text=text, sender_id="CLINIC")["parts"] == 1
    assert measured(text="", sender_id="ACME")["characters"] == 0
    assert "WAY_OUT_TEXT" in measured(text="x" * 1590, sender_id="ACME")["problem"]
