"""Serving the simulator: gunicorn, one worker process, so that one writer owns the database file."""

import logging
import os
import shutil
import threading
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from .app import create_app
from .config import Config
from .state import EXTENSION

log = logging.getLogger(__name__)

THREADS = 32
KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 1


class SimulatorServer(BaseApplication):
    def __init__(self, config: Config, *, is_temporary: bool) -> None:
        self._config = config
        self._is_temporary = is_temporary
        self._parent_lives, self._parent_end = os.pipe()
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": f"{in_url(self._config.host)}:{self._config.port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": THREADS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": STOP_SECONDS,
            "loglevel": "critical",
            "control_socket_disable": True,
            "when_ready": self._announce,
            "post_fork": self._die_with_parent,
            "post_worker_init": start_courier,
            "worker_exit": end_worker,
            "on_exit": self._clean_up,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._config)

    def _announce(self, arbiter: Any) -> None:
        host, port = arbiter.LISTENERS[0].sock.getsockname()[:2]
        log.info("Phones: http://%s:%s/ (callbacks go to %s)", in_url(host), port, self._config.service_url)

    def _die_with_parent(self, _arbiter: Any, _worker: Any) -> None:
        """Gunicorn looks for its parent once a second and then waits for open requests; a held connection would keep
        the port. The pipe closes the moment the parent is gone, SIGKILL included.
        """
        os.close(self._parent_end)
        threading.Thread(target=exit_at_end_of, args=(self._parent_lives,), daemon=True).start()

    def _clean_up(self, _arbiter: Any) -> None:
        if self._is_temporary:
            shutil.rmtree(self._config.database.parent, ignore_errors=True)


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def exit_at_end_of(pipe: int) -> None:
    os.read(pipe, 1)
    os._exit(1)


def start_courier(worker: Any) -> None:
    worker.wsgi.extensions[EXTENSION].courier.start()


def end_worker(_arbiter: Any, worker: Any) -> None:
    """Leaves without joining request threads: one that holds a caller's connection would keep the process."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.extensions[EXTENSION].close()
    logging.shutdown()
    os._exit(0)


def serve(config: Config, *, is_temporary: bool = False) -> None:
    """Blocks until SIGTERM or SIGINT. ``is_temporary``: the database's folder is removed at the end."""
    SimulatorServer(config, is_temporary=is_temporary).run()
