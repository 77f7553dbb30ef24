"""Sends: what was asked for together, how far it is, and holding or ending it."""

from __future__ import annotations

from flask import render_template, request
from werkzeug.wrappers import Response

from messaging.batches import bill, control, exports, progress, refused_rows
from messaging.batches.pace import paces
from messaging.batches.rows import MOST_REFUSED_KEPT
from messaging.messages.views import MessageFilters, list_messages
from routes.dashboard.blueprint import dashboard_bp, done
from routes.expensive_calls import expensive_download, expensive_read
from routes.service import current_database

CALLERS = "Operators; a `sender` may pause, resume and cancel."
PAGE = 25
FIRST_MESSAGES = 10
FIRST_REFUSED = 50


@dashboard_bp.get("/sends")
def show_sends() -> str:
    """Sends, newest first."""
    with expensive_read():
        found = progress.list_batches(current_database(), request.args.get("cursor"), PAGE)
        speeds = paces(current_database(), found["items"])
    return render_template("dashboard/sends.html", page=found, paces=speeds)


@dashboard_bp.get("/sends/<int:id>")
def show_send(id: int) -> str:
    """One send: how far it is, what came of it, its bill, its downloads."""
    database = current_database()
    with expensive_read():
        batch, costs = progress.get_batch(database, id), bill.bill(database, id)
        messages = list_messages(database, MessageFilters(batch_id=id), limit=FIRST_MESSAGES)
        speeds = paces(database, [batch])
    known = {"bill": costs, "messages": messages["items"], "pace": speeds.get(id)}
    return render_template("dashboard/send.html", batch=batch, **known)


@dashboard_bp.get("/sends/<int:id>/progress")
def show_send_progress(id: int) -> str:
    """The part of the page that changes while it is sent."""
    batch = progress.get_batch(current_database(), id)
    pace = paces(current_database(), [batch]).get(id)
    return render_template("dashboard/send_progress.html", batch=batch, pace=pace)


@dashboard_bp.get("/sends/<int:id>/reasons")
def show_reasons(id: int) -> str:
    """Why texts of a send did not arrive: the page of the send fetches it when it is shown."""
    with expensive_read():
        found = progress.reasons_of(current_database(), id)
    return render_template("dashboard/reasons.html", batch_id=id, reasons=found)


@dashboard_bp.get("/sends/<int:id>/refused")
def show_refused(id: int) -> str:
    """The first rows that were not taken: the page of the send fetches them when it is shown."""
    with expensive_read():
        batch = progress.get_batch(current_database(), id)
        rows = refused_rows.list_first(current_database(), id, FIRST_REFUSED)
    return render_template("dashboard/refused.html", batch=batch, rows=rows, most=MOST_REFUSED_KEPT)


@dashboard_bp.post("/sends/<int:id>/pause")
def pause_send(id: int) -> Response:
    """Holds a send."""
    control.pause(current_database(), id)
    return done(
        "Paused. What is on its way arrives; nothing more leaves until you resume.", "show_send", id=id
    )


@dashboard_bp.post("/sends/<int:id>/resume")
def resume_send(id: int) -> Response:
    """Lets a paused send go on."""
    control.resume(current_database(), id)
    return done("It goes on.", "show_send", id=id)


@dashboard_bp.post("/sends/<int:id>/cancel")
def cancel_send(id: int) -> Response:
    """Ends a send."""
    found = control.cancel(current_database(), id)
    return done(f"Cancelled: {found['message']}.", "show_send", id=id)


@dashboard_bp.get("/sends/<int:id>/refused.csv")
def download_refused(id: int) -> Response:
    """The rows that were not taken."""
    database = current_database()
    return expensive_download(lambda: exports.refused_csv(database, id), f"send-{id}-refused.csv")


@dashboard_bp.get("/sends/<int:id>/duplicates.csv")
def download_duplicates(id: int) -> Response:
    """The rows that stood there before."""
    database = current_database()
    return expensive_download(lambda: exports.duplicates_csv(database, id), f"send-{id}-duplicates.csv")


@dashboard_bp.get("/sends/<int:id>/messages.csv")
def download_messages(id: int) -> Response:
    """Every message of a send."""
    database = current_database()
    return expensive_download(lambda: exports.messages_csv(database, id), f"send-{id}-messages.csv")


@dashboard_bp.get("/sends/<int:id>/undelivered.csv")
def download_undelivered(id: int) -> Response:
    """Whom it did not reach, and what to do."""
    database = current_database()
    return expensive_download(lambda: exports.undelivered_csv(database, id), f"send-{id}-undelivered.csv")
