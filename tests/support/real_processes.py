"""What tests that start real processes share."""

import os
import socket

from utils.settings import Settings


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def offline_environment(**overrides: str) -> dict[str, str]:
    """This process's environment with every setting unset, whatever `.env` says, but for `overrides`."""
    # gunicorn itself fails on an empty WEB_CONCURRENCY before it reads any configuration.
    unset = dict.fromkeys((name.upper() for name in Settings.model_fields), "") | {"WEB_CONCURRENCY": "1"}
    return {**os.environ, **unset, **overrides}
