"""What the command line decides. Everything stays on this machine: no host but loopback is accepted."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


class ConfigurationError(ValueError):
    """A command line value that the simulator refuses; the message says why."""


@dataclass(frozen=True, slots=True)
class Config:
    """Durations are in seconds. ``token`` travels as ``?token=`` on every callback when it is set."""

    database: Path
    service_url: str = "http://127.0.0.1:8000"
    token: str | None = None
    shortcode: str = "20880"
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: int = 8001
    callback_retry_seconds: float = 60.0
    callback_timeout_seconds: float = 10.0
    report_delay_seconds: float = 0.3
    callback_threads: int = 8

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise ConfigurationError(f"host {self.host!r} is not loopback: the simulator is open to anyone")
        service = urlsplit(self.service_url)
        if service.scheme != "http" or not is_loopback(service.hostname or ""):
            raise ConfigurationError(f"service URL {self.service_url!r} is not http:// on this machine")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
