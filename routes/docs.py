"""The OpenAPI document, and the same for people."""

from __future__ import annotations

from typing import Any, cast

from flask import Blueprint, current_app, redirect, render_template, url_for
from flask_openapi.openapi import OpenAPI
from markupsafe import Markup, escape
from werkzeug.wrappers import Response

from routes.docs_page import describe_other_routes, describe_specification

CALLERS = "Anyone: it tells what the service can do, nothing of what it did."

docs_bp = Blueprint("docs", __name__)


@docs_bp.app_template_filter()
def with_code(text: str) -> Markup:
    """The text, escaped, with what stands in backticks set as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


@docs_bp.get("/")
def show_start() -> Response:
    """Leads to the documentation."""
    return redirect(url_for("docs.show_docs"))


@docs_bp.get("/docs")
def show_docs() -> str:
    """This page."""
    specification = _specification()
    sections = describe_specification(specification)
    others = describe_other_routes(current_app, specification)
    return render_template("docs.html", info=specification["info"], sections=sections, others=others)


@docs_bp.get("/v1/openapi.json")
def show_specification() -> dict[str, Any]:
    """The JSON API as an OpenAPI 3.1 document."""
    return _specification()


def _specification() -> dict[str, Any]:
    return cast(OpenAPI, current_app).api_doc
