"""gunicorn's threaded worker, in which no thread waits for a stranger.

The main loop collects a request from its connection. A thread gets it when its head and its body (of a long one the
first 320 KiB) have come, and when the answer to the last one is on its way. The deadlines are total ones.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from routes.request_arrival import Arrival
from routes.uploads import UNHURRIED

HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
# For what a thread reads itself: the rest of a long body that is no upload (routes.uploads has its own limits).
REST_SECONDS = 20.0
# A thread that sends waits no longer for a caller who takes nothing; the main loop waits as long for him.
SEND_SECONDS = 5
CLOSING_SECONDS = 2.0
LOOK_SECONDS = 0.5
# Beyond, the connection that has waited longest is closed.
MOST_WAITING = 700
PIECE_BYTES = 64 * 1024
# What is left unread of a body, such as a stranger's, is not waited for.
LEFTOVER_SECONDS = 0.05
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PASSING_ERRORS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED)


class WholeRequestWorker(ThreadWorker):
    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("TLS belongs in the proxy in front: remove certfile and keyfile")

    def init_process(self) -> None:
        self._waiting: dict[TConn, Arrival] = {}
        self._reading: dict[TConn, float] = {}
        self._next_look = 0.0
        for listener in self.sockets:  # accepted sockets inherit it
            limit = struct.pack("ll", SEND_SECONDS, 0)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        super().init_process()

    def accept(self, listener: Any) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in PASSING_ERRORS:
                raise
            return
        self.nr_conns += 1
        self._await(TConn(self.cfg, client, address, listener.getsockname()), HEAD_SECONDS)

    def _await(self, conn: TConn, seconds: float, data: bytes = b"", is_closing: bool = False) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._drop(next(iter(self._waiting)))
        arrival = self._waiting[conn] = Arrival(time.monotonic() + seconds)
        arrival.is_closing = is_closing
        conn.sock.setblocking(False)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._receive, conn))
        if data:
            self._add(conn, arrival, data)
        else:
            self._receive(conn)

    def _receive(self, conn: TConn, _ready: Any = None) -> None:
        arrival = self._waiting.get(conn)
        if arrival is None:  # dropped in the same pass of the loop
            return
        try:
            piece = conn.sock.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece, arrival.is_closing = b"", True
        if arrival.is_closing:
            if not piece:
                self._drop(conn)
            return
        self._add(conn, arrival, piece)

    def _add(self, conn: TConn, arrival: Arrival, piece: bytes) -> None:
        had_head = arrival.has_head
        if not arrival.data:
            arrival.deadline = time.monotonic() + HEAD_SECONDS
        arrival.data += piece
        if arrival.is_readable or (arrival.has_head and not piece):
            self._hand_over(conn)
        elif not piece or arrival.is_too_long:
            self._drop(conn)
        elif arrival.has_head and not had_head:
            arrival.deadline = time.monotonic() + BODY_SECONDS
            if arrival.expects_continue:
                with suppress(OSError):
                    conn.sock.send(CONTINUE)

    def _hand_over(self, conn: TConn, _ready: Any = None) -> None:
        arrival = self._waiting.get(conn)
        if arrival is None:
            return
        if conn.initialized and not _takes_more(conn.sock):
            arrival.deadline = time.monotonic() + SEND_SECONDS
            self.poller.modify(conn.sock, selectors.EVENT_WRITE, partial(self._hand_over, conn))
            return
        self._forget(conn)
        conn.data_ready = True
        conn.init()
        conn.parser.unreader.unread(bytes(arrival.data))
        if not arrival.is_whole:
            self._reading[conn] = time.monotonic() + REST_SECONDS
        self.enqueue_req(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        try:
            return super().handle_request(req, conn)
        except BlockingIOError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the caller takes no answer") from error

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        deadline = time.monotonic() + LEFTOVER_SECONDS
        return keepalive and bool(conn.parser.finish_body(deadline=deadline))

    def finish_request(self, conn: TConn, fs: Any) -> None:
        self._reading.pop(conn, None)
        try:
            if not fs.cancelled() and fs.result():
                seconds = self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER
                self._await(conn, seconds, conn.parser.unreader.take_buffered())
            else:
                # Closed at once, what the caller still sends would cost him the answer.
                conn.sock.shutdown(socket.SHUT_WR)
                self._await(conn, CLOSING_SECONDS, is_closing=True)
        except OSError:
            self._drop(conn)

    def _forget(self, conn: TConn) -> None:
        if self._waiting.pop(conn, None) is not None:
            self.poller.unregister(conn.sock)

    def _drop(self, conn: TConn) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        for arrival in self._waiting.values():
            if not arrival.data:
                arrival.deadline = min(arrival.deadline, deadline)

    def murder_pending(self) -> None:
        """gunicorn calls it after every pass of its loop."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for conn in [conn for conn, arrival in self._waiting.items() if arrival.deadline < now]:
            self._drop(conn)
        for conn in [conn for conn, deadline in self._reading.items() if deadline < now]:
            if conn.sock not in UNHURRIED:
                # The thread then reads the end of the stream, and answers that the body is short.
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)


def _takes_more(sock: socket.socket) -> bool:
    with selectors.PollSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        return bool(selector.select(0))
