"""Who may do what: the own password and sessions; for an admin operators, keys, and what everybody changed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from flask import g, render_template, request, url_for
from werkzeug.wrappers import Response

from messaging.access import actions, keys, operators, sessions
from routes.dashboard.blueprint import ANYBODY, dashboard_bp, done
from routes.dashboard.login import begin_session, typed_twice
from routes.service import current_database, current_service
from utils.local_times import read_end_of_day

CALLERS = "Operators: their own; admins: everybody's."


@dashboard_bp.get("/settings")
def show_settings() -> str:
    """The own password and sessions."""
    mine = [] if g.operator == ANYBODY else sessions.list_sessions(current_database(), g.operator.name)
    return render_template("dashboard/settings.html", sessions=mine, mine=g.get("session_id"))


@dashboard_bp.post("/settings/password")
def change_password() -> Response:
    """Changes the own password; all other sessions end."""
    passwords = request.form.get("old_password", ""), typed_twice()
    first = current_service().settings.dashboard_password
    operators.change_password(current_database(), g.operator, *passwords, first, request.remote_addr)
    begin_session(g.operator.name)
    return done("Your password is changed, and every other session has ended.", "show_settings")


@dashboard_bp.post("/settings/sessions/<int:id>/end")
def end_session(id: int) -> Response:
    """Ends one of the own sessions; an admin anybody's."""
    whose = None if g.operator.role == operators.ADMIN else g.operator.name
    sessions.end(current_database(), id, whose)
    return done("That session has ended.", "show_settings")


@dashboard_bp.get("/settings/operators")
def show_operators() -> str:
    """Everybody who may log in."""
    return _operators_page()


@dashboard_bp.post("/settings/operators")
def add_operator() -> str:
    """Adds a person, and shows the link by which a password is chosen."""
    name, role = request.form.get("name", "").strip(), request.form.get("role", "")
    return _operators_page(name, operators.add(current_database(), name, role))


@dashboard_bp.post("/settings/operators/<name>/link")
def renew_link(name: str) -> str:
    """Makes another link, for who forgot the password."""
    return _operators_page(name, operators.new_link(current_database(), name))


@dashboard_bp.post("/settings/operators/<name>/role")
def change_role(name: str) -> Response:
    """Changes what a person may do."""
    operators.change_role(current_database(), name, request.form.get("role", ""), keep_an_admin=True)
    return done(f"The role of {name} is changed.", "show_operators")


@dashboard_bp.post("/settings/operators/<name>/disable")
def disable_operator(name: str) -> Response:
    """Lets a person in no more."""
    operators.disable(current_database(), name, keep_an_admin=True)
    return done(f"{name} cannot log in any more. A new link lets them in again.", "show_operators")


@dashboard_bp.get("/settings/keys")
def show_keys() -> str:
    """API keys, with their last use."""
    return _keys_page()


@dashboard_bp.post("/settings/keys")
def create_key() -> str:
    """Makes a key and shows it, this once."""
    name, scopes = request.form.get("name", "").strip(), request.form.getlist("scope")
    limit = request.form.get("daily_limit", "").strip() or None
    key, _ = keys.create(current_database(), name, scopes, _end_of_day(request.form.get("expires")), limit)
    return _keys_page(name, key)


@dashboard_bp.post("/settings/keys/<name>/limit")
def limit_key(name: str) -> Response:
    """Changes what the sends of a key may cost in a day; an empty field: as much as they do."""
    keys.change_limit(current_database(), name, request.form.get("daily_limit", "").strip() or None)
    return done(f"The limit of the key {name} is changed. What is counted of today stays.", "show_keys")


@dashboard_bp.post("/settings/keys/<name>/revoke")
def revoke_key(name: str) -> Response:
    """Ends a key."""
    keys.revoke(current_database(), name)
    return done(f"The key {name} is not valid any more.", "show_keys")


@dashboard_bp.get("/settings/actions")
def show_actions() -> str:
    """What persons and keys changed."""
    actor, subject, cursor = (request.args.get(name) or None for name in ("actor", "subject", "cursor"))
    found = actions.list_actions(current_database(), actor, subject, cursor)
    return render_template("dashboard/actions.html", page=found)


# What is shown once is rendered in the answer itself: a message for the next page would stand in the cookie.
def _operators_page(name: str | None = None, token: str | None = None) -> str:
    database, link = current_database(), None
    if token is not None:
        path = url_for("dashboard.show_choose_password", token=token)
        link = current_service().settings.public_url + path
    found, open_sessions = operators.list_operators(database), sessions.list_sessions(database)
    return render_template(
        "dashboard/operators.html",
        operators=found,
        sessions=open_sessions,
        roles=operators.ROLES,
        name=name,
        link=link,
    )


def _keys_page(name: str | None = None, key: str | None = None) -> str:
    found = keys.list_keys(current_database())
    return render_template("dashboard/keys.html", keys=found, scopes=keys.SCOPES, name=name, made=key)


def _end_of_day(date: str | None) -> datetime | None:
    """Of TIME_ZONE."""
    if not date:
        return None
    zone = ZoneInfo(current_service().settings.time_zone)
    return read_end_of_day(date, zone).astimezone(UTC)
