"""gunicorn's threaded worker, in which no thread waits for a stranger.

The main loop collects a request from its connection. A thread gets it when its head and its body (of a long one the
first 320 KiB) have come, and leaves its answer to the main loop as soon as the caller does not take it at once. The
deadlines are total ones.
"""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import struct
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from routes.buffered_socket import BufferedSocket, EndOfStream
from routes.malformed_requests import BEGINNING_BYTES, BROKEN, refusal_of
from routes.request_arrival import Arrival
from routes.uploads import SHARE_OF_THREADS, UNHURRIED

HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
# For what a thread reads itself: the rest of a long body that is no upload (routes.uploads has its own limits).
REST_SECONDS = 20.0
# A thread that sends a download waits no longer for a caller who takes nothing.
SEND_SECONDS = 5
# For an answer that the main loop sends on.
ANSWER_SECONDS = 60.0
CLOSING_SECONDS = 2.0
# While this process stops, for a request that has begun to come.
STOPPING_SECONDS = 5.0
LOOK_SECONDS = 0.5
# Descriptors that are left for the database, uploads and logs.
RESERVED_DESCRIPTORS = 128
FEWEST_CONNECTIONS = 32
# Of all connections, these may wait for their callers. Beyond, the one that has waited longest is closed.
SHARE_WAITING = 0.7
# Of requests and of answers, of all connections together. Beyond, the one that has waited longest is closed.
MOST_HELD_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 64 * 1024
# What is left unread of a body, such as a stranger's, is not waited for.
LEFTOVER_SECONDS = 0.05
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PASSING_ERRORS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED)
NO_ROOM_SECONDS = 0.02
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class WholeRequestWorker(ThreadWorker):
    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("TLS belongs in the proxy in front: remove certfile and keyfile")

    def init_process(self) -> None:
        self._waiting: dict[TConn, Arrival] = {}
        self._reading: dict[TConn, float] = {}
        # Uploads answer 503 beyond their share: that, and a long body that is none, needs a place more.
        self._most_reading = max(1, self.cfg.threads // SHARE_OF_THREADS) + 1
        self._next_look = 0.0
        self.worker_connections = _connections_that_fit(self.cfg.worker_connections)
        self._most_waiting = int(self.worker_connections * SHARE_WAITING)
        for listener in self.sockets:  # accepted sockets inherit it
            limit = struct.pack("ll", SEND_SECONDS, 0)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        super().init_process()

    def accept(self, listener: Any) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in NO_ROOM:
                self._make_room()
            elif error.errno not in PASSING_ERRORS:
                raise
            return
        self.nr_conns += 1
        conn = TConn(self.cfg, BufferedSocket(client), address, listener.getsockname())
        self._await(conn, HEAD_SECONDS)

    def _make_room(self) -> None:
        if self._waiting:
            self._drop(next(iter(self._waiting)))
        else:
            # Threads hold all: without a pause this loop would take the processor from them.
            time.sleep(NO_ROOM_SECONDS)

    def _await(self, conn: TConn, seconds: float, data: bytes = b"", is_closing: bool = False) -> None:
        """Sends what is unsent of the last answer, then waits for the next request."""
        if len(self._waiting) >= self._most_waiting:
            self._make_room()
        if is_closing and not conn.sock.unsent:
            # Closed at once, what the caller still sends would cost him the answer.
            conn.sock.shutdown(socket.SHUT_WR)
        conn.sock.setblocking(False)
        arrival = self._waiting[conn] = Arrival(data, is_closing)
        if conn.sock.unsent:
            self._allow(arrival, ANSWER_SECONDS)
            self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._send_on, conn, seconds))
            return
        self._allow(arrival, HEAD_SECONDS if data else seconds)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._receive, conn))
        if data:
            self._measure(conn, arrival)
        else:
            self._receive(conn)

    def _allow(self, arrival: Arrival, seconds: float) -> None:
        most = seconds if self.alive else STOPPING_SECONDS
        arrival.deadline = time.monotonic() + min(seconds, most)

    def _send_on(self, conn: TConn, seconds: float, _ready: Any = None) -> None:
        arrival = self._waiting.get(conn)
        if arrival is None:  # dropped in the same pass of the loop
            return
        try:
            conn.sock.send_unsent()
            if not conn.sock.unsent:
                self._forget(conn)
                self._await(conn, seconds, bytes(arrival.data), arrival.is_closing)
        except OSError:
            self._drop(conn)

    def _receive(self, conn: TConn, _ready: Any = None) -> None:
        arrival = self._waiting.get(conn)
        if arrival is None:
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
        if not arrival.data:
            self._allow(arrival, HEAD_SECONDS)
        arrival.add(piece)
        self._measure(conn, arrival)

    def _measure(self, conn: TConn, arrival: Arrival) -> None:
        had_head = arrival.has_head
        if arrival.is_readable:
            self._hand_over(conn, arrival)
        elif arrival.has_ended or arrival.is_too_long:
            self._drop(conn)
        elif arrival.has_head and not had_head:
            self._allow(arrival, BODY_SECONDS)
            if arrival.expects_continue:
                with suppress(OSError):
                    conn.sock.send(CONTINUE)

    def _hand_over(self, conn: TConn, arrival: Arrival) -> None:
        has_all = arrival.is_whole or arrival.has_ended
        if not has_all and len(self._reading) >= self._most_reading:
            self.poller.unregister(conn.sock)
            arrival.is_paused = True
            return
        self._forget(conn)
        conn.data_ready = True
        conn.sock.beginning = bytes(arrival.data[:BEGINNING_BYTES])
        conn.init()
        conn.parser.unreader.sock = EndOfStream() if has_all else conn.sock
        conn.parser.unreader.unread(bytes(arrival.data))
        if not has_all:
            self._reading[conn] = time.monotonic() + REST_SECONDS
        self.enqueue_req(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        try:
            return super().handle_request(req, conn)
        except BlockingIOError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the caller takes no answer") from error

    def handle_error(self, _req: Any, client: Any, _addr: Any, exc: Exception) -> None:
        """gunicorn's own would answer in HTML, and write to the log what the caller sent."""
        refusal = refusal_of(exc)
        # The words of the error quote the request: its class has to do.
        note = {"status": refusal.status, "why": type(exc).__name__}
        if refusal is BROKEN:
            self.log.error("a request failed outside the app", exc_info=exc, extra=note)
        else:
            self.log.warning("a request cannot be read", extra=note)
        with suppress(OSError):
            client.sendall(refusal.as_http(client.beginning))

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """Where the end was met, the next request may begin anywhere: what follows is not read."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        is_at_end = conn.parser.finish_body(deadline=deadline)
        return keepalive and is_at_end and not getattr(conn.parser.unreader.sock, "was_met", False)

    def finish_request(self, conn: TConn, fs: Any) -> None:
        if self._reading.pop(conn, None) is not None:
            self._resume_one()
        if not fs.cancelled() and (error := fs.exception()) is not None:
            # Raised here, it would end the process and every request in it.
            self.log.error("A request failed outside the app", exc_info=error)
        try:
            if _wants_more(fs):
                seconds = self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER
                self._await(conn, seconds, conn.parser.unreader.take_buffered())
            else:
                self._await(conn, CLOSING_SECONDS, is_closing=True)
        except OSError:
            self._drop(conn)

    def _resume_one(self) -> None:
        for conn, arrival in self._waiting.items():
            if arrival.is_paused:
                arrival.is_paused = False
                self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._receive, conn))
                self._hand_over(conn, arrival)
                return

    def _forget(self, conn: TConn) -> None:
        arrival = self._waiting.pop(conn, None)
        if arrival is not None and not arrival.is_paused:
            self.poller.unregister(conn.sock)

    def _drop(self, conn: TConn) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        for conn, arrival in self._waiting.items():
            is_idle = not arrival.data and not conn.sock.unsent
            most = deadline if is_idle else time.monotonic() + STOPPING_SECONDS
            arrival.deadline = min(arrival.deadline, most)

    def murder_pending(self) -> None:
        """gunicorn calls it after every pass of its loop."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for conn in [conn for conn, arrival in self._waiting.items() if arrival.deadline < now]:
            self._drop(conn)
        self._shed()
        for conn in [conn for conn, deadline in self._reading.items() if deadline < now]:
            if conn.sock not in UNHURRIED:
                # The thread then reads the end of the stream, and answers that the body is short.
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)

    def _shed(self) -> None:
        held = {conn: len(arrival.data) + len(conn.sock.unsent) for conn, arrival in self._waiting.items()}
        excess = sum(held.values()) - MOST_HELD_BYTES
        for conn, size in held.items():
            if excess <= 0:
                return
            if size:
                self._drop(conn)
                excess -= size


def _wants_more(fs: Any) -> bool:
    return not fs.cancelled() and fs.exception() is None and bool(fs.result())


def _connections_that_fit(wanted: int) -> int:
    """Raises the limit of open files as far as it may: 1,024 is common, and a database without a file answers 503."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(FEWEST_CONNECTIONS, min(wanted, soft - RESERVED_DESCRIPTORS))
