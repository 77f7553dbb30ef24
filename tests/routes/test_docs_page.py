from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema_rs
import pytest
import schemathesis
from flask_openapi.openapi import OpenAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from playwright.sync_api import Browser, sync_playwright
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok

from messaging.messages.queue import NewMessage, enqueue
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.support.web import API_KEY, Caller
from utils.setting_types import REPOSITORY
from utils.version import VERSION

# Of the elements found.
IDS = "found => found.map(one => one.id)"
VENDOR = REPOSITORY / "routes" / "static" / "vendor"
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


def specification(app: OpenAPI) -> dict[str, Any]:
    found = app.test_client().get("/v1/openapi.json").json
    assert found is not None
    return dict(found)


def in_braces(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def test_the_document_is_openapi_3_1_and_names_every_api_route(app: OpenAPI) -> None:
    document = specification(app)
    served = {
        (method, in_braces(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/v1/")
    }
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert document["openapi"] == "3.1.0"
    assert told == served - {("GET", "/v1/openapi.json")}


def test_every_schema_in_the_document_is_valid_and_every_reference_resolves(app: OpenAPI) -> None:
    document = specification(app)
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        assert name
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert references
    assert set(references) <= set(document["components"]["schemas"])


def test_every_operation_names_its_key_and_its_errors(app: OpenAPI) -> None:
    document = specification(app)
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["security"] == [{"key": []}]
            assert {"401", "503"} <= set(operation["responses"])
            assert {"200", "202"} & set(operation["responses"])
            assert operation["summary"].endswith(".")
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


def schemas_in(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object of the document, with the place where it stands."""
    if isinstance(node, dict):
        yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from schemas_in(child, f"{path}/{name}")


def test_the_document_names_its_licence_its_server_and_its_release(make_app: MakeApp) -> None:
    document = specification(make_app(public_url="https://sms.example.org"))
    assert document["info"]["license"] == {"name": "MIT", "identifier": "MIT"}
    assert document["info"]["version"] == VERSION
    assert document["servers"] == [{"url": "https://sms.example.org"}]


def test_no_default_becomes_required_in_a_generated_client(app: OpenAPI) -> None:
    document = specification(app)
    assert [path for path, schema in schemas_in(document) if "default" in schema] == []
    required = document["components"]["schemas"]["SendMessages"]["required"]
    assert required == ["to", "text"]


def test_every_time_is_a_date_time_also_where_it_may_be_null(app: OpenAPI) -> None:
    moments = {
        f"{path}/{name}": schema
        for path, node in schemas_in(specification(app)["components"]["schemas"])
        if path.endswith("/properties")
        for name, schema in node.items()
        if name == "at" or name.endswith("_at")
    }
    assert len(moments) > 30
    time, or_null = {"type": "string", "format": "date-time"}, {"type": "null"}
    wrong = {
        path: schema
        for path, schema in moments.items()
        if not (schema.items() >= time.items() or schema.get("anyOf") == [time, or_null])
    }
    assert wrong == {}


def test_one_recipient_may_be_a_text_and_several_a_list(app: OpenAPI) -> None:
    to = specification(app)["components"]["schemas"]["SendMessages"]["properties"]["to"]
    assert to["anyOf"] == [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]


def test_the_document_is_complete(app: OpenAPI) -> None:
    """What a linter of OpenAPI documents would ask for."""
    document = specification(app)
    tags = {tag["name"] for tag in document["tags"]}
    assert all(tag["description"] for tag in document["tags"])
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            name = f"{method} {path}"
            assert set(operation["tags"]) <= tags, name
            given = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
            assert sorted(given) == sorted(re.findall(r"{(\w+)}", path)), name
            assert all(one["required"] for one in operation.get("parameters", ()) if one["in"] == "path"), (
                name
            )
            assert {"401", "403", "429", "503"} <= set(operation["responses"]), name
            for status, answer in operation["responses"].items():
                assert answer["description"], (name, status)
                assert all(one.get("schema") for one in answer.get("content", {}).values()), (name, status)
    for path, schema in schemas_in(document["components"]["schemas"]):
        assert set(schema.get("required", ())) <= set(schema.get("properties", {})) or "/" not in path, path


def test_answers_are_as_the_document_says_whatever_is_asked(app: OpenAPI, database: Database) -> None:
    with database.write() as connection:
        enqueue(connection, [NewMessage("+254711000001", "text") for _ in range(3)])
    Caller(app).callback("/sms/delivery-reports", {"id": "ATXid_nobodys", "status": "Success"})
    found = list(schemathesis.openapi.from_wsgi("/v1/openapi.json", app).get_all_operations())
    assert len(found) == sum(len(item) for item in specification(app)["paths"].values())
    for operation in found:
        assert isinstance(operation, Ok)
        call_with_anything(operation.ok().as_strategy())


def call_with_anything(cases: SearchStrategy[Any]) -> None:
    @given(case=cases)
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def call(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {API_KEY}"}, checks=CHECKS)

    call()


def test_the_page_tells_every_route_outside_the_document(app: OpenAPI) -> None:
    page = app.test_client().get("/docs").text
    told = specification(app)["paths"]
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.endswith("static") and in_braces(rule.rule) not in told:
            assert in_braces(rule.rule) in page


def test_the_page_holds_no_inline_script_or_style_and_asks_no_other_host(app: OpenAPI) -> None:
    page = app.test_client().get("/docs").text
    assert not re.search(r"<script[^>]*>[^<]", page)
    assert "<style" not in page
    assert not re.search(r"\s(style|on\w+)=", page)
    assert not re.search(r"(href|src)=\"(https?:)?//", page)


def test_vendored_files_are_the_ones_that_were_taken() -> None:
    table = (VENDOR / "VENDORED.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", table, re.MULTILINE)
    assert {name for name, _ in rows} == {path.name for path in VENDOR.iterdir() if path.suffix != ".md"}
    for name, digest in rows:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_breaks_no_rule_of_its_own(
    served: str, browser: Browser, scheme: Literal["light", "dark"]
) -> None:
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: complaints.extend([request.url] * (not is_ours(request.url, served))))
    page.goto(f"{served}/docs")
    page.locator(".opblock").first.wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert complaints == []
    assert width <= 360
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")


def is_ours(url: str, served: str) -> bool:
    return url.startswith((served, "data:"))


@pytest.mark.browser
def test_a_call_is_tried_from_the_page(served: str, browser: Browser, app: OpenAPI) -> None:
    page = browser.new_page()
    page.goto(f"{served}/docs")
    page.locator(".opblock").first.wait_for()
    shown = {one.removeprefix("operations-") for one in page.locator(".opblock").evaluate_all(IDS)}
    operations = [one for item in specification(app)["paths"].values() for one in item.values()]
    assert {one.rsplit("-", 1)[-1] for one in shown} == {one["operationId"] for one in operations}
    page.get_by_role("button", name="Authorize").click()
    page.get_by_label("Value").fill(API_KEY)
    page.locator(".auth-btn-wrapper").get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").first.click()
    queue = page.locator(".opblock-post", has=page.get_by_text("/v1/messages", exact=True))
    queue.locator("button").first.click()
    queue.get_by_role("button", name="Try it out").click()
    queue.locator("textarea.body-param__text").fill('{"to": "+254711000001", "text": "Tried from the page"}')
    queue.get_by_role("button", name="Execute").click()
    answered = queue.locator(".live-responses-table .response-col_status").nth(1)
    assert answered.inner_text().startswith("202")
