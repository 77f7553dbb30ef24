"""Holding a caller's connection without an answer, and cutting it.

A view asks with ``cut_connection``; ``ConnectionCutter``, outermost round the application, then destroys the socket and
raises ``ECONNRESET``, which gunicorn's threaded worker takes as a client that went away.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Response, request

SOCKET_KEY = "gunicorn.socket"
CUT_KEY = "simulator.cut"
LOOK_EVERY_SECONDS = 0.05


def hold_connection(seconds: float, is_released: Callable[[], bool]) -> None:
    """Come back when the time is over, the caller hung up, or ``is_released`` says so."""
    held: socket.socket | None = request.environ.get(SOCKET_KEY)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not is_released():
        if held is None:
            time.sleep(LOOK_EVERY_SECONDS)
        elif has_hung_up(held):
            return


def has_hung_up(held: socket.socket) -> bool:
    """Waits a moment for the caller to close its side."""
    poller = select.poll()
    poller.register(held, select.POLLIN)
    if not poller.poll(LOOK_EVERY_SECONDS * 1000):
        return False
    try:
        is_closed = held.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
    if not is_closed:
        time.sleep(LOOK_EVERY_SECONDS)
    return is_closed


def cut_connection() -> Response:
    request.environ[CUT_KEY] = True
    return Response()


class ConnectionCutter:
    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = self._application(environ, start_response)
        if not environ.get(CUT_KEY):
            return body
        if hasattr(body, "close"):
            body.close()
        reset_socket(environ.get(SOCKET_KEY))
        raise ConnectionResetError(errno.ECONNRESET, "cut by a fault")


def reset_socket(victim: socket.socket | None) -> None:
    """Send a TCP RST and leave the socket object on a harmless descriptor.

    Closing the object would make gunicorn, which closes it again, lose count of its connections; shutting it down
    would send an orderly FIN first. Replacing the descriptor under it closes the real one, at once, with linger 0.
    """
    if victim is None:
        return
    victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stand_in, other_end = socket.socketpair()
    os.dup2(stand_in.fileno(), victim.fileno(), inheritable=False)
    stand_in.close()
    other_end.close()
