"""Each page's main task in real Chromium, on real processes: web, worker, simulator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from messaging import statuses
from tests.pages.demo import ASKERS, CALL, LOST, PASSWORD, TEXT, call, demo, log_in, says, seed
from tests.pages.screenshots import PAGES
from tests.support.stack import Stack, eventually
from tests.support.workbooks import workbook

# One stack for all of them.
pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.xdist_group("pages")]
NARROW = {"width": 360, "height": 740}
TOO_WIDE = """[...document.querySelectorAll('main *')]
  .filter(one => !one.closest('.wide') && one.getBoundingClientRect().right > innerWidth)
  .map(one => one.tagName + ' ' + one.textContent.trim().slice(0, 60))"""
# Both presses become a submit, as without our script.
BY_THE_BROWSER = (
    "document.querySelector('[formaction]').form"
    ".addEventListener('submit', event => event.stopImmediatePropagation(), true)"
)
SHEETS = {"March": "+254711200791", "April": "+254711200792"}
# Ends the session, or leads out of the pages.
NOT_FOLLOWED = ("/docs", "/static/", "/v1/")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with demo(tmp_path_factory.mktemp("pages")) as found:
        seed(found)
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """Of an admin. What a page may not do is a failure of the test: errors in the console, requests elsewhere."""
    page = browser.new_page(viewport=NARROW)  # type: ignore[arg-type]
    complaints: list[str] = []
    page.on("console", lambda message: complaints.extend([message.text] * (message.type == "error")))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.extend([request.url] * (not is_ours(request.url, stack))))
    log_in(page, stack)
    yield page
    page.close()
    assert [one for one in complaints if "status of 40" not in one] == []


def is_ours(url: str, stack: Stack) -> bool:
    return url.startswith((stack.web_url, "data:", "blob:"))


def faults_of(page: Page, name: str) -> list[str]:
    """What keeps somebody from reading it, on a phone or by ear."""
    broken = Axe().run(page).response["violations"]
    faults = [f"{name}: {one['id']} {[each['target'] for each in one['nodes']]}" for one in broken]
    width = page.evaluate("document.documentElement.scrollWidth")
    return faults + [f"{name}: {width} pixels wide, {page.evaluate(TOO_WIDE)}"] * (width > NARROW["width"])


def received(stack: Stack, phone: str) -> list[str]:
    items = stack.session.get(f"{stack.simulator_url}/_simulator/ledger", timeout=10).json()["items"]
    return [one["text"] for one in items if one["to"] == phone]


def figures(page: Page) -> dict[str, int]:
    """Of the first list of figures on the page."""
    terms = page.locator("dl.figures").first.locator("div").all()
    found = {one.locator("dt").inner_text(): one.locator("dd").inner_text() for one in terms}
    return {
        name: int(value.replace(",", "")) for name, value in found.items() if re.fullmatch(r"[\d,]+", value)
    }


def test_a_file_of_two_thousand_is_sent_from_choosing_it_to_delivered(
    page: Page, stack: Stack, tmp_path: Path
) -> None:
    rows = ["Mobile No,name"]
    rows += [f"+25471130{place:04d},{('Élodie', 'Wanjiru', 'Ngozi')[place % 3]}" for place in range(2004)]
    rows += [f"0711 3{place:02d} {place % 1000:03d},Amina" for place in range(20, 40)]
    rows += ["+254711300001,Wanjiru", "12345,Baraka", "NULL,Mutua"]
    # The simulator's special endings are not deliveries.
    rows = [one for one in rows if not re.match(r"\+25471130(0[45]0\d|090[0-3])", one)]
    file = tmp_path / "patients.csv"
    file.write_text("\n".join(rows).replace("Mobile No", "mobile"), "utf-8")
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("A file").set_input_files(file)
    page.get_by_label("Text.").fill(TEXT)
    expect(page.locator("#length")).to_contain_text("1 part")
    page.get_by_label("Name, for the list").fill("Two thousand")
    page.get_by_role("button", name="Check").click()
    page.get_by_role("heading", name="What it comes to").wait_for()
    found = figures(page)
    assert (found["Duplicates"], found["Refused rows"]) == (1, 2)
    assert found["Texts"] == len(rows) - 1 - 3
    sample, steps = page.locator(".sample:visible"), page.locator(".steps")
    expect(sample).to_contain_text("Dear Élodie, the clinic")
    page.get_by_role("button", name="Next").click()
    expect(sample).to_contain_text("Dear Wanjiru, the clinic")
    page.get_by_role("button", name="Previous").dblclick()
    expect(steps).to_contain_text("20 of 20")
    left_out = page.get_by_role("region", name="Refused rows, table")
    assert faults_of(page, "checked send") == []
    expect(left_out.locator("tr").nth(1)).to_contain_text(re.compile(rf"{len(rows) - 1:,}.*12345"))
    with page.expect_download() as early:
        page.get_by_role("button", name="Download the refused rows").click()
    assert [one.split(",")[-2:] for one in Path(early.value.path()).read_text("utf-8-sig").splitlines()] == [
        ["mobile", "name"],
        ["12345", "Baraka"],
        ["NULL", "Mutua"],
    ]
    page.get_by_role("button", name=re.compile(rf"^Send {found['Texts']:,} texts")).click()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    page.locator("[data-finished]").wait_for(timeout=60_000)
    batch_id = int(page.url.rsplit("/", 1)[1])
    wanted = {"delivered": found["Texts"]}
    eventually(lambda: call(stack, "GET", f"/v1/batches/{batch_id}")["counts"] == wanted, "all", 60)
    page.reload()
    assert figures(page)["Delivered"] == found["Texts"]
    items = stack.session.get(f"{stack.simulator_url}/_simulator/ledger", timeout=30).json()["items"]
    mine = [
        one for one in items if "the clinic is open" in one["text"] and not one["to"].startswith("+25471120")
    ]
    assert len({one["to"] for one in mine}) == len(mine) == found["Texts"]
    with page.expect_download() as download:
        page.get_by_role("link", name="refused rows").click()
    refused = Path(download.value.path()).read_text("utf-8-sig")
    assert len(refused.splitlines()) == 3


def slow_line(page: Page, bytes_a_second: int) -> None:
    line = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_a_second}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", line)


# Notes where the bar stood and what was said, at each change.
WATCH_UPLOAD = """() => {
  window.seen = {shares: [], told: []};
  const bar = document.querySelector('#upload progress'), told = document.getElementById('upload-told');
  new MutationObserver(() => seen.shares.push(bar.hasAttribute('value') ? bar.value : null))
    .observe(bar, {attributes: true});
  new MutationObserver(() => seen.told.push(told.textContent)).observe(told, {childList: true, subtree: true});
}"""


def test_a_file_on_its_way_up_is_followed_by_a_bar_and_by_ear(page: Page, stack: Stack) -> None:
    rows = "".join(f"+25471140{place:04d},{'x' * 4000}\n" for place in range(100))
    content = {"name": "long.csv", "mimeType": "text/csv", "buffer": b"phone,note\n" + rows.encode()}
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("A file").set_input_files(content)  # type: ignore[arg-type]
    page.get_by_label("Text.").fill("Followed")
    expect(page.locator("#length")).to_contain_text("1 part")
    slow_line(page, 200_000)
    page.evaluate(WATCH_UPLOAD)
    bar = page.get_by_role("progressbar", name="How much of the file has gone up")
    told = page.get_by_role("status").filter(has_text=re.compile("goes up: [257]"))
    page.get_by_role("button", name="Check:").click()
    expect(told).to_be_visible()
    assert faults_of(page, "a file on its way") == []
    expect(bar).to_be_hidden(timeout=20_000)
    seen = page.evaluate("seen")
    page.get_by_role("button", name="Send 100 texts").click()
    expect(told).to_be_visible()
    assert page.get_by_label("Text.").is_disabled()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    expect(page.locator(".notice[role=status]")).to_contain_text("It is taken in")
    shares = [one for one in seen["shares"] if one is not None]
    assert len({one for one in shares if 0 < one < 1}) > 3, shares
    # While the service reads, nobody knows how long.
    assert seen["shares"][-1] is None
    assert {"The file goes up: 25 %.", "It is up. Its rows are read…"} <= set(seen["told"])
    # By ear at each quarter, not at each packet.
    assert len(seen["told"]) < 12


def test_a_file_is_sent_without_any_script(browser: Browser, stack: Stack) -> None:
    page = browser.new_page(java_script_enabled=False)
    log_in(page, stack)
    people = [["phone", "name"], ["+254711200795", "Amina"]]
    content = workbook({"Notes": [["nothing"]], "People": people})
    file: Any = {"name": "plain.xlsx", "mimeType": "", "buffer": content}
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("A file").set_input_files(file)
    page.get_by_label("Text.").fill("Dear {{name}}, without a script")
    page.get_by_role("button", name="Check:").click()
    page.get_by_label("The sheet of the workbook").select_option("People")
    page.get_by_label("A file").set_input_files(file)
    page.get_by_label("Text.").press("Tab")
    page.get_by_role("button", name="Check").click()
    expect(page.locator(".sample blockquote")).to_have_text("Dear Amina, without a script")
    page.get_by_label("A file").set_input_files(file)
    page.get_by_role("button", name="Send 1 text").click()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    page.close()
    eventually(lambda: received(stack, "+254711200795") == ["Dear Amina, without a script"], "it arrives")


def test_what_is_changed_while_a_check_is_under_way_is_not_answered_by_it(page: Page, stack: Stack) -> None:
    content = {
        "name": "slow.csv",
        "mimeType": "text/csv",
        "buffer": b"phone,note\n" + b"+254711400001,x\n" * 20_000,
    }
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("A file").set_input_files(content)  # type: ignore[arg-type]
    page.get_by_label("Text.").fill("First")
    slow_line(page, 100_000)
    page.get_by_role("button", name="Check:").click()
    bar = page.get_by_role("progressbar", name="How much of the file has gone up")
    expect(bar).to_be_visible()
    page.get_by_label("Text.").fill("Second")
    expect(bar).to_be_hidden()
    slow_line(page, -1)
    assert page.get_by_role("heading", name="What it comes to").count() == 0
    page.get_by_role("button", name="Check:").click()
    expect(page.locator(".sample blockquote")).to_have_text("Second")


def test_enter_in_a_field_sends_nothing(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("Or numbers").fill("+254711200781")
    page.get_by_label("Text.").fill("Entered")
    page.get_by_label("Name, for the list").press("Enter")
    button = page.get_by_role("button", name="Send 1 text")
    button.wait_for()
    with page.expect_response(re.compile("/sends/check$")):
        page.get_by_label("Name, for the list").press("Enter")
    button.wait_for()
    assert page.url.endswith("/sends/new")


def test_the_sheet_of_a_workbook_is_chosen_in_the_page(page: Page, stack: Stack) -> None:
    sheets = {name: [["phone", "tel", "name"], [number, "", name]] for name, number in SHEETS.items()}
    content = {"name": "two.xlsx", "mimeType": "", "buffer": workbook(sheets)}
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("A file").set_input_files(content)  # type: ignore[arg-type]
    page.get_by_label("Text.").fill("Dear {{name}}")
    page.get_by_role("button", name="Check:").click()
    page.get_by_label("The numbers stand in the column").select_option("phone")
    page.get_by_role("button", name="Check:").click()
    expect(page.locator(".sample blockquote")).to_have_text("Dear March")
    page.get_by_label("The sheet of the workbook").select_option("April")
    expect(page.get_by_label("The numbers stand in the column")).to_have_count(0)
    page.get_by_role("button", name="Check:").click()
    page.get_by_label("The numbers stand in the column").select_option("phone")
    page.get_by_role("button", name="Check:").click()
    expect(page.locator(".sample blockquote")).to_have_text("Dear April")
    assert faults_of(page, "a workbook with two sheets") == []
    page.get_by_role("button", name="Send 1 text").click()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    eventually(lambda: received(stack, SHEETS["April"]) == ["Dear April"], "it arrives")
    assert received(stack, SHEETS["March"]) == []


def test_a_wrong_file_says_what_is_wrong_and_keeps_what_was_typed(
    page: Page, stack: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "names.csv"
    file.write_text("first,last\nAnn,Otieno\n")
    page.emulate_media(color_scheme="dark")
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("A file").set_input_files(file)
    page.get_by_label("Text.").fill("Hello {{name}}")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("alert")).to_contain_text("No column of the file is called")
    assert page.get_by_label("Text.").input_value() == "Hello {{name}}"
    page.get_by_label("The numbers stand in the column").select_option("last")
    page.get_by_label("Text.").fill("Hello {{first}}")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("region", name="Refused rows, table")).to_contain_text("Otieno")
    assert faults_of(page, "checked send, dark") == []


def test_a_character_that_costs_is_named_and_replaced_by_one_click(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("Text.").fill("We’re open")
    expect(page.locator("#length")).to_contain_text("“’” makes each part shorter")
    expect(page.locator("#length")).to_contain_text("special letters or signs (Unicode)")
    page.get_by_role("button", name="Write “'” instead").click()
    assert page.get_by_label("Text.").input_value() == "We're open"
    expect(page.locator("#length")).to_have_text("10 characters, 1 part, ordinary letters (GSM-7).")


def test_pasted_numbers_are_sent_once_however_often_the_button_is_pressed(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/sends/new")
    page.get_by_label("Or numbers").fill("0711 200 777, +254711200778")
    page.get_by_label("Text.").fill("Pasted")
    page.get_by_role("button", name="Check").click()
    send = page.get_by_role("button", name="Send 2 texts")
    send.wait_for()
    page.evaluate(BY_THE_BROWSER)
    send.dblclick()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    eventually(lambda: received(stack, "+254711200778") == ["Pasted"], "it arrives")
    assert received(stack, "+254711200777") == ["Pasted"]


def test_the_same_file_again_today_is_said_before_the_button(page: Page, stack: Stack) -> None:
    for _ in range(2):
        page.goto(f"{stack.web_url}/sends/new")
        page.get_by_label("Or numbers").fill("+254711200790")
        page.get_by_label("Text.").fill("The same again")
        page.get_by_role("button", name="Check").click()
        send = page.get_by_role("button", name="Send 1 text")
        send.wait_for()
        if page.get_by_text("Everybody in it would get it twice").count():
            break
        send.click()
        page.wait_for_url(re.compile(r"/sends/\d+$"))
    eventually(lambda: received(stack, "+254711200790") == ["The same again"], "it arrives")
    send.click()
    expect(page.get_by_role("alert").first).to_contain_text("say that you mean it")
    page.get_by_role("button", name="Check").click()
    page.get_by_label("Send it all the same").check()
    page.get_by_role("button", name="Send 1 text").click()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    eventually(lambda: received(stack, "+254711200790") == ["The same again"] * 2, "it arrives again")


def test_a_person_at_a_page_and_one_at_a_phone_talk(page: Page, stack: Stack) -> None:
    phone = ASKERS[0]
    page.goto(f"{stack.web_url}/conversations/{phone}")
    box = page.get_by_label("Answer, from")
    box.fill("Yes, 10 is fine")
    expect(page.locator("#length")).to_have_text(
        "15 characters, 1 part, about KES 0.80, ordinary letters (GSM-7)."
    )
    box.press("Enter")
    eventually(lambda: "Yes, 10 is fine" in received(stack, phone), "it arrives")
    box = page.get_by_label("Answer, from")
    box.fill("And bring")
    box.focus()
    says(stack, phone, "Thank you so much")
    page.locator(".bubble.theirs", has_text="Thank you so much").wait_for(timeout=20_000)
    assert page.evaluate("document.activeElement.id") == "reply"
    assert box.input_value() == "And bring"


def test_a_stop_while_the_page_is_open_takes_the_box_away(page: Page, stack: Stack) -> None:
    phone = "+254711200310"
    says(stack, phone, "Hello")
    eventually(lambda: phone in str(call(stack, "GET", "/v1/conversations")), "it came")
    page.goto(f"{stack.web_url}/conversations/{phone}")
    box, stopped = page.get_by_label("Answer, from"), page.locator("#stopped")
    box.fill("Are you there?")
    says(stack, phone, "STOP")
    expect(stopped).to_contain_text("This number opted out", timeout=20_000)
    expect(box).to_be_hidden()
    # What was typed is still read, and the focus is where the change is told.
    expect(stopped.locator("blockquote")).to_have_text("Are you there?")
    assert page.evaluate("document.activeElement.id") == "stopped"
    assert faults_of(page, "conversation that ended") == []
    page.keyboard.press("Enter")
    says(stack, phone, "START")
    expect(box).to_be_visible(timeout=20_000)
    expect(stopped).not_to_contain_text("opted out")
    assert box.input_value() == "Are you there?"
    assert page.evaluate("document.activeElement.id") == "reply"
    assert "Are you there?" not in received(stack, phone)


def test_an_answer_on_its_way_when_the_stop_came_is_not_sent(page: Page, stack: Stack) -> None:
    phone = "+254711200311"
    says(stack, phone, "Hello")
    eventually(lambda: phone in str(call(stack, "GET", "/v1/conversations")), "it came")
    page.goto(f"{stack.web_url}/conversations/{phone}")
    page.get_by_label("Answer, from").fill("Are you there?")
    # A page that has not looked since.
    page.route("**/texts", lambda route: route.abort())
    says(stack, phone, "STOP")
    eventually(
        lambda: call(stack, "GET", "/v1/opt-outs", params={"phone": phone})["items"] != [], "it stopped"
    )
    page.get_by_role("button", name="Send answer").click()
    expect(page.locator("#stopped")).to_contain_text("opted out")
    expect(page.locator("#stopped blockquote")).to_have_text("Are you there?")
    assert "Are you there?" not in received(stack, phone)
    expect(page.get_by_label("Answer, from")).to_be_hidden()


def test_a_conversation_stands_beside_the_list_where_there_is_room(page: Page, stack: Stack) -> None:
    phone, other = "+254711200312", "+254711200313"
    for one in (phone, other):
        says(stack, one, "Hello")
        eventually(lambda one=one: one in str(call(stack, "GET", "/v1/conversations")), "it came")
    page.goto(f"{stack.web_url}/conversations/{phone}")
    people = page.get_by_role("navigation", name="People")
    expect(page.get_by_role("heading", name=phone)).to_be_visible()
    expect(people).to_have_count(0)
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(people.locator("[aria-current=page]")).to_contain_text(phone)
    assert Axe().run(page).response["violations"] == []
    # A text of another person comes up in the list: neither what is typed nor the focus is lost by it.
    box = page.get_by_label("Answer, from")
    box.fill("I was about to")
    says(stack, other, "Anybody there?")
    expect(people.locator("li").first).to_contain_text("Anybody there?", timeout=20_000)
    assert (page.evaluate("document.activeElement.id"), box.input_value()) == ("reply", "I was about to")
    # By keyboard: the link that has the focus keeps it while the list is renewed.
    people.get_by_role("link", name=other).focus()
    says(stack, other, "Hello?")
    expect(people.locator("li").first).to_contain_text("Hello?", timeout=20_000)
    assert other in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=other)).to_be_visible()
    page.get_by_role("link", name="Skip the list of people").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#thread') !== null")


def test_two_tabs_neither_double_nor_lose_what_is_typed(page: Page, stack: Stack) -> None:
    phone, path = ASKERS[0], f"{stack.web_url}/conversations/{ASKERS[0]}"
    with page.expect_popup() as opened:
        page.evaluate("window.open('/conversations')")
    other = opened.value
    tabs = {page: "From the first tab", other: "From the second tab"}
    for tab, text in tabs.items():
        tab.goto(path)
        tab.get_by_label("Answer, from").fill(text)
    for tab in tabs:
        tab.get_by_label("Answer, from").press("Enter")
        expect(tab.get_by_role("status")).to_contain_text("on its way")
    for text in tabs.values():
        eventually(lambda text=text: received(stack, phone).count(text) == 1, "it arrives once")
    # One of them ends the session of both.
    page.get_by_label("Answer, from").fill("Typed before the other tab logged out")
    other.get_by_role("button", name="Log out").click()
    page.get_by_label("Answer, from").press("Enter")
    expect(page.locator("main")).to_contain_text("Nothing was done")
    assert page.get_by_label("Text").input_value() == "Typed before the other tab logged out"
    other.close()


def test_what_may_be_a_wish_to_stop_is_decided_by_a_person(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/conversations/{ASKERS[2]}")
    page.get_by_role("button", name="It is not").click()
    page.goto(f"{stack.web_url}/conversations/{ASKERS[2]}")
    stop = page.get_by_role("button", name="It is: do not text this number")
    expect(stop).to_be_hidden()
    says(stack, ASKERS[2], "and now please stop all of this")
    expect(stop).to_be_visible(timeout=20_000)
    assert faults_of(page, "conversation that asks") == []
    page.get_by_role("button", name="It is: do not text this number").click()
    expect(page.locator("main")).to_contain_text("not texted any more")
    answer = stack.session.get(
        f"{stack.web_url}/v1/opt-outs", params={"phone": ASKERS[2]}, headers=CALL, timeout=10
    )
    assert [one["source"] for one in answer.json()["items"]] == ["operator"]


def test_a_send_is_paused_resumed_and_cancelled_in_its_row(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/sends")
    row = page.locator("tr", has_text="Vaccination reminder")
    row.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_have_text("It goes on.")
    page.goto(f"{stack.web_url}/sends")
    row = page.locator("tr", has_text="Vaccination reminder")
    row.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Paused")
    page.goto(f"{stack.web_url}/sends")
    row = page.locator("tr", has_text="Vaccination reminder")
    row.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_contain_text("Cancelled: 41 messages will not be sent")


def test_an_unknown_message_is_sent_again_by_hand(page: Page, stack: Stack) -> None:
    (lost,) = call(stack, "GET", "/v1/messages", params={"to": LOST})["items"]
    eventually(
        lambda: call(stack, "GET", f"/v1/messages/{lost['id']}")["status"] == "unknown", "it is unknown", 90
    )
    page.goto(f"{stack.web_url}/messages/{lost['id']}")
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("status")).to_contain_text("The recipient may get both")
    actions = call(
        stack, "GET", "/v1/actions", params={"actor": "operator:admin", "subject": f"message:{lost['id']}"}
    )
    assert [one["action"] for one in actions["items"]] == ["message.resend"]


def test_a_file_dropped_anywhere_on_the_page_is_the_file_that_is_sent(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/sends/new")
    dropped = page.evaluate_handle(
        """() => { const data = new DataTransfer();
          data.items.add(new File(["phone\\n+254711200796\\n"], "dropped.csv", {type: "text/csv"})); return data; }"""
    )
    page.get_by_role("heading", name="New send").dispatch_event("drop", {"dataTransfer": dropped})
    page.get_by_label("Text.").fill("Dropped")
    page.get_by_role("button", name="Check:").click()
    page.get_by_role("button", name="Send 1 text").click()
    page.wait_for_url(re.compile(r"/sends/\d+$"))
    expect(page.get_by_role("heading", name="dropped.csv")).to_be_visible()
    eventually(lambda: received(stack, "+254711200796") == ["Dropped"], "it arrives")


def test_the_whole_row_of_a_message_leads_to_it(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/messages")
    row = page.locator("table.rows tbody tr").nth(2)
    row.scroll_into_view_if_needed()
    box = row.locator("td").nth(1).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 20, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile(r"/messages/\d+$"))


def test_messages_are_found_by_number_word_and_state(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/messages")
    page.keyboard.press("/")
    page.keyboard.type("0711 200 301")
    page.keyboard.press("Enter")
    expect(page.locator("table.rows")).to_contain_text(ASKERS[0])
    page.get_by_role("searchbox").fill("status:nonsense")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("alert")).to_contain_text("nonsense is no status")


def test_what_was_typed_when_the_session_ended_is_not_lost(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.web_url}/conversations/{ASKERS[0]}")
    page.get_by_label("Answer, from").fill("A long answer")
    page.context.clear_cookies()
    page.get_by_role("button", name="Send answer").click()
    expect(page.locator("main")).to_contain_text("Nothing was done")
    assert page.get_by_label("Text").input_value() == "A long answer"
    assert "A long answer" not in received(stack, ASKERS[0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_read_by_everybody_on_every_screen(page: Page, stack: Stack, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    faults = []
    for name, path in PAGES.items():
        if name == "docs":
            continue
        page.goto(stack.web_url + path)
        page.wait_for_load_state("load")
        faults += faults_of(page, name)
    assert faults == []


def test_a_message_in_any_state_fits_a_phone(page: Page, stack: Stack) -> None:
    call(stack, "POST", "/v1/messages", json={"to": ["+254711000031"], "text": "a" * 150})
    listed = [call(stack, "GET", "/v1/messages", params={"limit": 1, "status": one}) for one in statuses.ALL]
    messages = [message for one in listed for message in one["items"]]
    assert messages
    faults = []
    for message in messages:
        page.goto(f"{stack.web_url}/messages/{message['id']}")
        width = page.evaluate("document.documentElement.scrollWidth")
        faults += [(message["status"], width, page.evaluate(TOO_WIDE))] * (width > NARROW["width"])
    assert faults == []


@pytest.mark.parametrize("role", ["viewer", "sender", "approver", "admin"])
def test_every_link_of_every_page_leads_somewhere_for_every_role(
    browser: Browser, stack: Stack, role: str
) -> None:
    name = f"link-{role}"
    link = stack.flask("sms", "operators", "add", name, "--role", role).stdout.strip()
    page = browser.new_page()
    page.goto(urljoin(stack.web_url, urlsplit(link).path))
    page.get_by_label("Password, at least").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Set password").click()
    page.wait_for_url(f"{stack.web_url}/settings")
    seen, waiting = {"/settings"}, ["/"]
    while waiting:
        path = waiting.pop()
        answer = page.request.get(stack.web_url + path, max_redirects=0)
        assert answer.status == 200, (role, path, answer.status)
        links = re.findall(r'<a [^>]*href="(/[^"#]*)', answer.text())
        new = {one.replace("&amp;", "&") for one in links} - seen
        new = {one for one in new if not one.startswith(NOT_FOLLOWED) and "cursor=" not in one}
        # One of each kind: a list of a hundred messages has a hundred of the same.
        kinds = {re.sub(r"\d+", "#", one): one for one in sorted(new)}
        kinds = {
            kind: one for kind, one in kinds.items() if kind not in {re.sub(r"\d+", "#", old) for old in seen}
        }
        seen |= set(kinds.values())
        waiting += kinds.values()
    page.close()
    assert len(seen) > 12


def test_a_callback_url_is_copied_by_its_button(page: Page, stack: Stack) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=stack.web_url)
    page.goto(f"{stack.web_url}/health")
    shown = page.locator("#url-2").inner_text()
    button = page.get_by_role("button", name="Copy the URL for").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    copied = page.get_by_role("button", name="Copied")
    expect(copied).to_be_focused()
    assert page.evaluate("navigator.clipboard.readText()") == shown
    assert "token=" in shown
