"""Forwarding headers count only where the peer is one of `TRUSTED_PROXIES`: anyone can write them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def trust_proxies(app: Flask, networks: tuple[str, ...]) -> None:
    if networks:
        app.wsgi_app = _TrustedProxies(app.wsgi_app, networks)  # type: ignore[method-assign]


class _TrustedProxies:
    def __init__(self, app: WSGIApplication, networks: tuple[str, ...]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._plain = app
        self._behind_proxy = ProxyFix(app, x_for=1, x_proto=1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        app = self._behind_proxy if self._trusts(environ.get("REMOTE_ADDR", "")) else self._plain
        return app(environ, start_response)

    def _trusts(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:  # a UNIX socket has no address
            return False
        return any(address in network for network in self._networks)
