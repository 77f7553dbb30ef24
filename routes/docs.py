"""The OpenAPI document, and a page on which a person reads it and tries a call."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

from flask import Blueprint, Flask, current_app, render_template
from flask_openapi.openapi import OpenAPI
from markupsafe import Markup, escape

CALLERS = "Anyone: it tells what the service can do, nothing of what it did."
UNTOLD = frozenset({"HEAD", "OPTIONS"})

docs_bp = Blueprint(
    "docs",
    __name__,
    # Swagger UI as its package brings it: served from here, so the page asks no other host.
    static_folder=str(files("flask_openapi_swagger") / "templates" / "swagger"),
    static_url_path="/docs/swagger",
)


@dataclass(frozen=True, slots=True)
class OtherRoute:
    method: str
    path: str
    summary: str


@docs_bp.app_template_filter()
def with_code(text: str) -> Markup:
    """The text, escaped, with what stands in backticks set as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


@docs_bp.get("/docs")
def show_docs() -> str:
    """This page."""
    specification = _specification()
    others = describe_other_routes(current_app, specification)
    return render_template("docs.html", info=specification["info"], others=others)


@docs_bp.get("/v1/openapi.json")
def show_specification() -> dict[str, Any]:
    """The JSON API as an OpenAPI 3.1 document."""
    return _specification()


def describe_other_routes(app: Flask, specification: dict[str, Any]) -> list[OtherRoute]:
    """What is served but not part of the JSON API, described by the docstring of each view."""
    rules = sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
    return [
        OtherRoute(method, _in_braces(rule.rule), _docstring(app.view_functions[rule.endpoint]))
        for rule in rules
        for method in sorted((rule.methods or set()) - UNTOLD)
        if not rule.endpoint.endswith("static") and _in_braces(rule.rule) not in specification["paths"]
    ]


def _specification() -> dict[str, Any]:
    return cast(dict[str, Any], without_defaults(cast(OpenAPI, current_app).api_doc))


def without_defaults(document: Any) -> Any:
    """Generated clients make of a field with a default one that is always there; the descriptions tell defaults."""
    if isinstance(document, dict):
        return {name: without_defaults(value) for name, value in document.items() if name != "default"}
    return [without_defaults(one) for one in document] if isinstance(document, list) else document


def _in_braces(rule: str) -> str:
    return re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule)


def _docstring(view: object) -> str:
    return " ".join((inspect.getdoc(view) or "").split())
