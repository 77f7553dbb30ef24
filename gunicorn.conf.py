"""How gunicorn serves the app. It is read from the working directory; options on the command line win."""

from datetime import timedelta
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from utils.logs import ACCESS_NOTE, configure_logging, mask_path
from utils.setting_types import is_loopback, join_host
from utils.settings import Settings, SettingsError, load_settings


def _settings() -> Settings:
    try:
        settings = load_settings()
        settings.require_provider()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    return settings


settings = _settings()


def status_of(resp: Any) -> int | None:
    """gunicorn's own answer to a malformed request has a line and no code; a request that failed has neither."""
    line = str(resp.status or "")
    return int(line[:3]) if line[:3].isdigit() else None


class OwnLogger(Logger):
    """gunicorn's lines and the access log in our form; of the URL only the path, for the query holds keys."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure_logging(settings.log_level, settings.secrets, settings.log_format)

    def access(self, resp: Any, _req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        answered = {name.lower(): value for name, value in resp.headers}
        self.access_log.info(
            "%s %s",
            environ.get("REQUEST_METHOD"),
            mask_path(environ.get("PATH_INFO", "")),
            extra={
                # Of a trusted proxy's client: the app has put it there.
                "address": environ.get("REMOTE_ADDR"),
                **environ.get(ACCESS_NOTE, {}),
                "status": status_of(resp),
                "milliseconds": round(request_time / timedelta(milliseconds=1), 1),
                "request_id": answered.get("x-request-id"),
            },
        )


def on_starting(server: Arbiter) -> None:
    """`--bind` on the command line comes after the settings were checked, so it is checked here."""
    hosts = [address[0] for address in server.cfg.address if isinstance(address, tuple)]
    if settings.reply_notice:
        server.log.warning(settings.reply_notice)
    if settings.is_offline and not all(is_loopback(host) for host in hosts):
        raise SystemExit("AT_USERNAME is not set and offline all is open: bind to 127.0.0.1 only")


wsgi_app = "app:create_app()"
bind = join_host(settings.bind, settings.port)
worker_class = "routes.web_worker.WholeRequestWorker"
# It would write past the buffer that keeps a slow caller from holding a thread.
sendfile = False
workers = settings.web_concurrency
threads = settings.web_threads
# The thread that shares commits must start in the worker: one made before the fork would not exist there.
preload_app = False
# A GET trigger may wait 20 s for AT: a stop lets it finish.
graceful_timeout = 30
# The worker beats from its main loop, however long a request takes, so this only finds a hung process.
timeout = 60
# Longer than the 60 s after which common load balancers drop an idle connection: then they close, never we.
keepalive = 75
# A trigger carries its numbers and its text in the query.
limit_request_line = 8190
forwarded_allow_ips = ",".join(settings.trusted_proxies)
control_socket_disable = True
logger_class = OwnLogger
loglevel = settings.log_level.lower()
accesslog = "-"
