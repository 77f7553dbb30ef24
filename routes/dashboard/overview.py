"""The first page: what happened in the last seven days, and what somebody has to do."""

from __future__ import annotations

from datetime import datetime

from flask import render_template

from messaging.operations import health, held, recent, stats
from routes.dashboard.blueprint import dashboard_bp
from routes.dashboard.filters import as_cost
from routes.expensive_calls import expensive_read
from routes.service import current_service

CALLERS = "Operators; offline, where nobody is set, anyone on this machine."


@dashboard_bp.get("/")
def show_overview() -> str:
    """What happened in the last seven days."""
    service = current_service()
    with expensive_read():
        found = stats.stats(service.database, service.settings.time_zone)
        lately = recent.recent(service.database, datetime.fromisoformat(found["since"]))
    known = {"worker": health.worker_problem(service.database), "held": _held(), "recent": lately}
    return render_template("dashboard/overview.html", stats=found, settings=service.settings, **known)


@dashboard_bp.get("/overview/balance")
def show_balance() -> str:
    """What is left on the account: asked for by the page when it is shown, for Africa's Talking may not answer."""
    found = current_service().balance.glance()
    if found is None:
        return "not known: Africa's Talking does not answer"
    return as_cost(found["balance"])


def _held() -> dict[str, int]:
    with current_service().database.read() as connection:
        return held.count_held(connection)
