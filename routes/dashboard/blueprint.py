"""What the pages share: who is looking, what their role allows, and forms that only our own pages can send."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from flask import (
    Blueprint,
    Flask,
    flash,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.wrappers import Response

from messaging.access import operators, sessions
from messaging.access.actor import Actor, acting
from messaging.access.operators import ADMIN, APPROVER, VIEWER, Operator
from messaging.operations.health import STORAGE_ERRORS
from routes.dashboard.roles import LIMITED, NEEDED, PUBLIC, UPLOADS
from routes.error_handlers import explain_outage, status_of
from routes.guards import limit_sends
from routes.open_mode import refuse_strangers
from routes.scopes import READING
from routes.service import current_service
from routes.uploads import begin_upload
from utils.errors import AcceptanceUnknown, Forbidden, InvalidInput, ServiceError
from utils.local_times import read_local_time
from utils.phone_numbers import read_query_phone
from utils.secret_files import read_or_make
from utils.settings import Settings

CALLERS = "Operators who have logged in, each by role; offline, where no operator and no password is set, anyone here."
LOGIN = "login"
# Who looks offline, where nobody has to log in.
ANYBODY = Operator("offline", ADMIN)
TYPED_NOWHERE = "password"
# Of a form that our script sent, so as to follow the upload. A browser would go where a 303 leads behind its back,
# and the sentence for that page would be used up.
BY_SCRIPT = "X-By-Script"
# A form that came back with what was typed is shown again; longer ones are files.
LONGEST_SHOWN = 5000

csrf = CSRFProtect()
dashboard_bp = Blueprint("dashboard", __name__, template_folder="templates")


def prepare_dashboard(app: Flask, settings: Settings) -> None:
    app.secret_key = settings.secret_key or read_or_make(settings.secret_key_file)
    app.config |= {
        "SESSION_COOKIE_NAME": "sms_session",
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_SECURE": settings.public_url.startswith("https:"),
        # Asked by this blueprint alone: programs have keys.
        "WTF_CSRF_CHECK_DEFAULT": False,
        # As long as the session that it belongs to.
        "WTF_CSRF_TIME_LIMIT": None,
    }
    csrf.init_app(app)
    app.register_blueprint(dashboard_bp)


@dashboard_bp.before_request
def require_operator() -> Response | None:
    endpoint = (request.endpoint or "").partition(".")[2]
    g.operator = find_operator()
    if g.operator is None and endpoint not in PUBLIC:
        if request.method not in READING:
            raise CSRFError("the session has ended")
        return redirect(url_for("dashboard.show_login", next=request.full_path.rstrip("?")), 303)
    if g.operator is not None:
        acting.set(Actor(f"operator:{g.operator.name}", request.remote_addr, g.operator.may(APPROVER)))
    needed = NEEDED.get(endpoint, VIEWER if request.method in READING else ADMIN)
    if endpoint not in PUBLIC and not g.operator.may(needed):
        raise Forbidden(f"This needs the role {needed}; yours is {g.operator.role}", code="missing_role")
    if endpoint in UPLOADS:
        begin_upload()
    if request.method not in READING:
        csrf.protect()
    _refuse_nul()
    if endpoint in LIMITED:
        limit_sends()
    return None


def _refuse_nul() -> None:
    """No name and no word has one, and PostgreSQL takes none: refused here, it is no failure of the store later."""
    typed = [*request.args.values(), *request.form.values(), *map(str, (request.view_args or {}).values())]
    if any("\0" in one for one in typed):
        raise InvalidInput("A NUL character is no part of a text or a name", code="invalid_character")


def find_operator() -> Operator | None:
    service = current_service()
    found = sessions.find(service.database, session[LOGIN]) if LOGIN in session else None
    if found is not None:
        g.session_id = found[0]
        with service.database.read() as connection:
            return operators.operator_of(connection, found[1])
    is_open = service.settings.is_offline and service.settings.dashboard_password is None
    if not is_open or not operators.is_nobody_set(service.database):
        return None
    refuse_strangers("DASHBOARD_PASSWORD and operators")
    return ANYBODY


@dashboard_bp.app_context_processor
def share_operator() -> dict[str, Operator | None]:
    return {"operator": g.get("operator")}


@dashboard_bp.errorhandler(CSRFError)
def show_stale_form(_error: CSRFError) -> tuple[str, int]:
    """The session ended while somebody typed, or another page made the form: what was typed is not lost."""
    if request.endpoint == "dashboard.log_in":
        sentence = "This page was open for too long. Type your password again."
        page = render_template("dashboard/login.html", name=request.form.get("name"), error=sentence)
        return page, 400
    typed = [
        (name, value[:LONGEST_SHOWN])
        for name, value in request.form.items(multi=True)
        if name != "csrf_token" and TYPED_NOWHERE not in name
    ]
    return render_template("dashboard/stale_form.html", typed=typed, action=request.path), 400


@dashboard_bp.errorhandler(ServiceError)
def show_error(error: ServiceError) -> tuple[str, int]:
    status = status_of(error)
    known = {"status": status, "is_open": isinstance(error, AcceptanceUnknown)}
    return render_template("dashboard/error.html", sentence=error.message, **known), status


def show_outage(error: Exception) -> tuple[str, int]:
    return show_error(explain_outage(error))


for _outage in STORAGE_ERRORS:
    dashboard_bp.register_error_handler(_outage, show_outage)


@dashboard_bp.after_request
def name_origin(response: Response) -> Response:
    """The site, and no path: over https a form counts only with a `Referer` of ours."""
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


def read_phone(phone: str) -> str:
    """E.164. Raises InvalidPhone."""
    return read_query_phone(phone, current_service().settings.default_region).e164


def read_since() -> datetime | None:
    """The beginning of the day in `since`, in TIME_ZONE; None where none is asked for. Raises InvalidInput."""
    typed = request.args.get("since")
    zone = ZoneInfo(current_service().settings.time_zone)
    return read_local_time(f"{typed}T00:00", zone).astimezone(UTC) if typed else None


def done(sentence: str, endpoint: str, **values: Any) -> Response:
    """After a form: the page again, by GET, with one sentence that says what was done."""
    flash(sentence)
    led = redirect(url_for(f"dashboard.{endpoint}", **values), 303)
    if BY_SCRIPT in request.headers:
        led.status_code = 204
    return led
