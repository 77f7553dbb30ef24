"""A service as a clinic would have it after a week: real processes, texts that arrived and texts that did not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.support.databases import empty_database
from tests.support.stack import API_KEY, Stack, eventually

PASSWORD = "demo-password-of-the-clinic"
NAMES = ("Achieng", "Wanjiru", "Zawadi", "Amina", "Mutua", "Ngozi", "Élodie", "Kiprop")
TEXT = "Dear {{name}}, the clinic is open on Saturday from 8 to 12. Reply STOP to end these texts."
# Last digits that the simulator knows: not delivered, absent, refused, no answer.
SPECIAL = {7: "0900", 13: "0901", 21: "0403", 29: "0902"}
ASKERS = ("+254711200301", "+254711200302", "+254711200303")
LOST = "+254711200903"
CALL = {"Authorization": f"Bearer {API_KEY}"}


@contextmanager
def demo(folder: Path, kind: str = "sqlite", **settings: str) -> Iterator[Stack]:
    wanted = {
        "DASHBOARD_PASSWORD": PASSWORD,
        "TIME_ZONE": "Africa/Nairobi",
        "DEFAULT_REGION": "KE",
        # The text that AT never answers is soon unknown, and no report of another's number settles it.
        "AT_TIMEOUT_SECONDS": "10",
        "ADOPT_BY_NUMBER": "false",
    } | settings
    with empty_database(kind, folder) as url:
        stack = Stack(folder, url, wanted | {"AT_SENDER_ID": "CLINIC", "AT_MAX_MESSAGES_PER_SECOND": "1000"})
        try:
            stack.start_all()
            yield stack
        finally:
            stack.close()


def patients(count: int = 120) -> bytes:
    """As people bring it: a number twice, a local one, one that is none, accents."""
    rows = ["phone,name,visit"]
    for place in range(count):
        digits = SPECIAL.get(place, f"{place:04d}")
        rows.append(f"+25471120{digits},{NAMES[place % len(NAMES)]},{place % 28 + 1} December")
    rows += [
        "0711 200 001,Achieng Odhiambo,3 December",
        "+254711200002,Zawadi,3 December",
        "12345,Baraka,4 December",
    ]
    return "\n".join(rows).encode()


def upload(stack: Stack, name: str, content: bytes, text: str = TEXT, **fields: str) -> int:
    files = {"file": ("patients.csv", io.BytesIO(content), "text/csv")}
    answer = stack.session.post(
        f"{stack.web_url}/v1/batches",
        data={"text": text, "name": name} | fields,
        files=files,
        headers=CALL,
        timeout=30,
    )
    answer.raise_for_status()
    return int(answer.json()["id"])


def says(stack: Stack, phone: str, text: str) -> None:
    body = {"from": phone, "to": "20880", "text": text}
    stack.session.post(f"{stack.simulator_url}/_simulator/inbound", json=body, timeout=10).raise_for_status()


def seed(stack: Stack) -> None:
    first = upload(stack, "Saturday clinic", patients())
    call(stack, "POST", "/v1/messages", json={"to": LOST, "text": "Your result is ready"})
    for place, phone in enumerate(ASKERS):
        call(stack, "POST", "/v1/messages", json={"to": phone, "text": "Your appointment is on Monday at 9."})
        says(stack, phone, ("Can I come at 10 instead?", "STOP", "please do not stop, thank you")[place])
    later = upload(
        stack,
        "Vaccination reminder",
        patients(40),
        send_at=(datetime.now(UTC) + timedelta(days=30)).isoformat(),
    )
    eventually(
        lambda: call(stack, "GET", f"/v1/batches/{later}")["status"] == "scheduled", "the second is read", 60
    )
    call(stack, "POST", f"/v1/batches/{later}/pause")
    eventually(
        lambda: call(stack, "GET", f"/v1/batches/{first}")["progress"] == 1.0, "the first batch left", 60
    )
    eventually(lambda: len(call(stack, "GET", "/v1/conversations")["items"]) == len(ASKERS), "texts came", 30)


def call(stack: Stack, method: str, path: str, **more: Any) -> Any:
    answer = stack.session.request(method, stack.web_url + path, headers=CALL, timeout=30, **more)
    answer.raise_for_status()
    return answer.json()


def log_in(page: Page, stack: Stack, name: str = "admin", password: str = PASSWORD) -> None:
    page.goto(f"{stack.web_url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{stack.web_url}/settings")
