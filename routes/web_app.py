"""The web app: blueprints, guards and answers on top of the service."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flask import Response, request
from flask_openapi.models.info import Info
from flask_openapi.models.license import License
from flask_openapi.models.security_scheme import SecurityScheme
from flask_openapi.models.server import Server
from flask_openapi.openapi import OpenAPI

from messaging.access.actor import acting_name
from messaging.callbacks.refused import RefusedCallbacks
from messaging.operations import outages
from messaging.operations.metrics import Gauges
from messaging.service import Service, build_service
from messaging.storage.task_queue import Waker
from routes.api.access import access_api
from routes.api.batches import batches_api
from routes.api.consents import consents_api
from routes.api.conversations import conversations_api
from routes.api.figures import figures_api
from routes.api.forwarding import forwarding_api
from routes.api.held import held_api
from routes.api.json_bodies import StrictJsonRequest
from routes.api.messages import messages_api
from routes.api.models import ErrorAnswer
from routes.api.operations import operations_api
from routes.api.opt_outs import opt_outs_api
from routes.api.uploads import uploads_api
from routes.callback_paths import join_slashes
from routes.dashboard.blueprint import prepare_dashboard
from routes.docs import docs_bp
from routes.error_handlers import refuse_invalid_request, register_error_handlers
from routes.expensive_calls import prepare_expensive_calls
from routes.guards import KEY_RING, KEY_THROTTLE, begin_anonymously, prepare_guards
from routes.health import GAUGES, health_bp
from routes.open_mode import guard_open_mode
from routes.proxies import trust_proxies
from routes.requests_of_test_keys import prepare_test_keys
from routes.service import EXTENSION, current_service
from routes.sessions import CookieSessions
from routes.sms import sms_bp
from routes.uploads import prepare_uploads
from routes.whole_bodies import require_whole_bodies
from utils.logs import ACCESS_NOTE, choose_request_id, configure_logging, is_of_test_key, request_id
from utils.settings import Settings
from utils.version import VERSION

ROUTES = Path(__file__).resolve().parent
LARGEST_BODY_BYTES = 2 * 1024 * 1024
DESCRIPTION = (
    "Sends texts through Africa's Talking and says what became of them."
    " Send your key with every call: `Authorization: Bearer KEY`."
    " A test key (`sms_test_…`) gets the answers that a live one gets, of test data alone; nothing it sends leaves."
    " Times are RFC 3339 UTC. Lists come in pages: pass `next_cursor` as `cursor`."
)
# The short name that SPDX has for it.
LICENCE = License(name="MIT", identifier="MIT")
CONTENT_SECURITY = (
    # Pico draws its arrows from data: images.
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY,
    "X-Content-Type-Options": "nosniff",
    # Callback tokens and `api_key` stand in URLs.
    "Referrer-Policy": "no-referrer",
}


def build_web_app(settings: Settings) -> OpenAPI:
    configure_logging(settings.log_level, settings.secrets, settings.log_format)
    app = _create_flask(settings)
    service = build_service(settings)
    service.database.wake = Waker(settings)
    outages.watch(service.database)
    _add_service(app, service)
    prepare_test_keys(app, service, partial(_build_test_app, app))
    for blueprint in (sms_bp, health_bp, docs_bp):
        app.register_blueprint(blueprint)
    _register_apis(app)
    prepare_dashboard(app, settings)
    register_error_handlers(app)
    return app


def _build_test_app(live: OpenAPI, service: Service) -> OpenAPI:
    """For `/v1` and the triggers, on the test service. The live app has let the request in and knows its peer."""
    app = _create_flask(service.settings.model_copy(update={"trusted_proxies": ()}))
    _add_service(app, service)
    for name in (KEY_RING, KEY_THROTTLE):
        app.extensions[name] = live.extensions[name]
    app.register_blueprint(sms_bp)
    _register_apis(app)
    register_error_handlers(app)
    return app


def _register_apis(app: OpenAPI) -> None:
    apis = (
        messages_api,
        batches_api,
        operations_api,
        uploads_api,
        conversations_api,
        opt_outs_api,
        consents_api,
        forwarding_api,
        access_api,
        held_api,
        figures_api,
    )
    for api_blueprint in apis:
        app.register_api(api_blueprint)


def _create_flask(settings: Settings) -> OpenAPI:
    app = OpenAPI(
        __name__,
        info=Info(title="SMS service", version=VERSION, description=DESCRIPTION, license=LICENCE),
        servers=[Server(url=settings.public_url)],
        security_schemes={"key": SecurityScheme(type="http", scheme="bearer")},
        doc_ui=False,
        validation_error_status=400,
        validation_error_model=ErrorAnswer,
        validation_error_callback=refuse_invalid_request,
        static_folder=str(ROUTES / "static"),
        template_folder=str(ROUTES / "templates"),
    )
    app.openapi_version = "3.1.0"
    app.request_class = StrictJsonRequest
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES
    app.session_interface = CookieSessions()
    app.before_request(_begin_request)
    app.before_request(begin_anonymously)
    guard_open_mode(app, settings)
    app.after_request(_finish_answer)
    require_whole_bodies(app)
    join_slashes(app)
    trust_proxies(app, settings.trusted_proxies)
    return app


def _add_service(app: OpenAPI, service: Service) -> None:
    app.extensions[EXTENSION] = service
    app.extensions[GAUGES] = Gauges(service.database)
    prepare_guards(app, service, RefusedCallbacks(service.database))
    prepare_uploads(app, service.settings.web_threads)
    prepare_expensive_calls(app, service.settings.web_threads)


def _begin_request() -> None:
    choose_request_id(request.headers.get("X-Request-Id"))
    is_of_test_key.set(current_service().is_test)


def _finish_answer(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = request_id.get() or ""
    note = request.environ.setdefault(ACCESS_NOTE, {})
    note["actor"] = acting_name()
    if is_of_test_key.get():
        note["test"] = True
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
