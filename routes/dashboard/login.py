"""Coming in, going out, and choosing a password by a link."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import g, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response

from messaging.access import operators, sessions
from messaging.access.login_throttle import TooManyTries
from routes.dashboard.blueprint import LOGIN, dashboard_bp, done
from routes.service import current_database, current_service
from utils.errors import InvalidInput

CALLERS = "Anyone: it is where operators come in."


@dashboard_bp.get("/login")
def show_login() -> str:
    """The form to log in."""
    return render_template("dashboard/login.html", next=request.args.get("next"))


@dashboard_bp.post("/login")
def log_in() -> Response | tuple[str, int]:
    """Opens a session."""
    name, wanted = request.form.get("name", "").strip().lower(), request.form.get("next")
    try:
        begin_session(_prove(name).name)
    except (InvalidInput, TooManyTries) as error:
        status = 429 if isinstance(error, TooManyTries) else 400
        page = render_template("dashboard/login.html", next=wanted, name=name, error=error.message)
        return page, status
    return redirect(own_path(wanted) or url_for("dashboard.show_settings"), 303)


@dashboard_bp.post("/logout")
def log_out() -> Response:
    """Ends the session."""
    if "session_id" in g:
        sessions.end(current_database(), g.session_id)
    session.clear()
    return redirect(url_for("dashboard.show_login"), 303)


@dashboard_bp.get("/password/<token>")
def show_choose_password(token: str) -> tuple[str, int]:
    """The form behind a link that an admin gave."""
    name = operators.link_holder(current_database(), token)
    return render_template("dashboard/choose_password.html", name=name), 200 if name else 404


@dashboard_bp.post("/password/<token>")
def choose_password(token: str) -> Response | tuple[str, int]:
    """Sets the password, once, and opens a session."""
    try:
        password = typed_twice()
        found = operators.use_link(current_database(), token, password)
    except InvalidInput as error:
        name = operators.link_holder(current_database(), token)
        return render_template("dashboard/choose_password.html", name=name, error=error.message), 400
    begin_session(found.name)
    return done("Your password is set.", "show_settings")


def _prove(name: str) -> operators.Operator:
    """Raises InvalidInput, TooManyTries."""
    first, typed = current_service().settings.dashboard_password, request.form.get("password", "")
    return operators.log_in(current_database(), name, typed, request.remote_addr, first)


def begin_session(name: str) -> None:
    # Whatever was in the cookie before the login is not carried into it.
    session.clear()
    agent = request.headers.get("User-Agent", "")
    session[LOGIN] = sessions.begin(current_database(), name, request.remote_addr, agent)


def typed_twice() -> str:
    """Raises InvalidInput."""
    first, second = (request.form.get(name, "") for name in ("password", "password_again"))
    if first != second:
        raise InvalidInput("The two passwords differ", code="passwords_differ", field="password_again")
    return first


def own_path(wanted: str | None) -> str | None:
    """Only a path of ours: a link to the login must not lead to another site afterwards."""
    if not wanted or not wanted.startswith("/") or wanted.startswith(("//", "/\\")):
        return None
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return None
    return None if parts.scheme or parts.netloc else wanted
