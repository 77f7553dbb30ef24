"""`make screenshots`: every page of a seeded demo, light and dark, wide and phone-narrow, into `screenshots/`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.pages.demo import ASKERS, TEXT, demo, log_in, patients, seed
from tests.support.stack import Stack
from utils.setting_types import REPOSITORY

FOLDER = REPOSITORY / "screenshots"
CHECKED = "checked-send"
PAGES = {
    "overview": "/",
    "sends": "/sends",
    "send": "/sends/1",
    "reasons": "/sends/1/reasons",
    "refused": "/sends/1/refused",
    "new-send": "/sends/new",
    CHECKED: "/sends/new",
    "messages": "/messages",
    "message": "/messages/1",
    "conversations": "/conversations",
    "conversation": f"/conversations/{ASKERS[0]}",
    "people": "/people?q=nobody-has-it",
    "person": f"/people/{ASKERS[1]}",
    "held": "/held",
    "opt-outs": "/opt-outs",
    "consents": "/consents",
    "callbacks": "/callbacks",
    "health": "/health",
    "settings": "/settings",
    "operators": "/settings/operators",
    "keys": "/settings/keys",
    "actions": "/settings/actions",
    "docs": "/docs",
}
SIZES = {"wide": (1280, 900), "narrow": (360, 740)}


def main(wanted: list[str]) -> int:
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as temporary,
        demo(Path(temporary)) as stack,
        sync_playwright() as playwright,
    ):
        seed(stack)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for size in SIZES:
                _take(browser, stack, scheme, size, wanted)
        browser.close()
    return 0


def _check_a_file(page: Page) -> None:
    content = {"name": "patients.csv", "mimeType": "text/csv", "buffer": patients()}
    page.get_by_label("A file").set_input_files(content)  # type: ignore[arg-type]
    page.get_by_label("Text.").fill(TEXT)
    page.get_by_role("button", name="Check").click()
    page.get_by_role("heading", name="What it comes to").wait_for()
    page.locator("#length", has_text="part").wait_for()


def _take(browser: Browser, stack: Stack, scheme: str, size: str, wanted: list[str]) -> None:
    width, height = SIZES[size]
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
    log_in(page, stack)
    for name, path in PAGES.items():
        if wanted and name not in wanted:
            continue
        page.goto(stack.web_url + path)
        page.wait_for_load_state("load")
        if name == CHECKED:
            _check_a_file(page)
        target = FOLDER / f"{name}-{scheme}-{size}.png"
        page.screenshot(path=target, full_page=True)
        sys.stdout.write(f"{target.relative_to(REPOSITORY)}\n")
    page.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
