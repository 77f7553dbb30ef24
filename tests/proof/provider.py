"""Africa's Talking in a process of its own: what it took stands in a ledger that no death of ours can touch.

It accepts a text when the whole request is there, before it answers, as AT does. `/events` takes forwarded events.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

INSUFFICIENT_BALANCE = 405
LOOPBACK = ("127.0.0.1", 0)
TIMEOUT_SECONDS = 30.0


class _State:
    """`ledger`: every text that was accepted, in order. `events`: what was forwarded. `lines`: open connections."""

    def __init__(self) -> None:
        self.change = threading.Condition()
        self.lines = 0
        self.reset({})

    def reset(self, how: dict[str, Any]) -> None:
        """`refuse`: so many POSTs are answered with no money. `balance`: what it says when asked."""
        with self.change:
            self.ledger: list[dict[str, Any]] = []
            self.events: list[dict[str, Any]] = []
            self.posts = 0
            self.refuse = how.get("refuse", 0)
            self.balance = how.get("balance", "KES 120.5000")

    def answer(self, form: dict[str, str]) -> dict[str, Any]:
        with self.change:
            self.posts += 1
            numbers = form["to"].split(",")
            if self.refuse:
                self.refuse -= 1
                recipients = [_refusal(number) for number in numbers]
            else:
                recipients = [self._accept(number, form) for number in numbers]
        said = {"Message": f"Sent to {len(numbers)}/{len(numbers)}", "Recipients": recipients}
        return {"SMSMessageData": said}

    def _accept(self, number: str, form: dict[str, str]) -> dict[str, Any]:
        provider_id = f"ATXid_{len(self.ledger) + 1}"
        self.ledger.append({"to": number, "text": form["message"], "id": provider_id, "post": self.posts})
        accepted = {"statusCode": 101, "status": "Success", "cost": "KES 0.8000", "messageId": provider_id}
        return {"number": number, **accepted}

    def wait_until_alone(self) -> dict[str, Any]:
        """Until nobody is connected: what a dead process had sent is then taken, or never will be."""
        with self.change:
            is_alone = self.change.wait_for(lambda: self.lines == 0, TIMEOUT_SECONDS)
            return {"ledger": self.ledger, "events": self.events, "is_alone": is_alone}


def _refusal(number: str) -> dict[str, Any]:
    word = "InsufficientBalance"
    return {
        "number": number,
        "statusCode": INSUFFICIENT_BALANCE,
        "status": word,
        "cost": "0",
        "messageId": "None",
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that dies is what this is for."""


class _CountingServer(_Server):
    """Lines count from the moment that they are taken from the queue, in the order in which they came."""

    state: _State

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.state.change:
            self.state.lines += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.state.change:
                self.state.lines -= 1
                self.state.change.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    state: _State

    def body(self) -> bytes | None:
        """None where the caller ended in the middle of it."""
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        return content if len(content) == length else None

    def reply(self, status: int, content: Any) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        return


class _AfricasTalking(_Handler):
    def do_POST(self) -> None:
        content = self.body()
        if content is None:
            self.close_connection = True
        elif self.path == "/events":
            with self.state.change:
                self.state.events.append({"id": self.headers["webhook-id"], "body": content.decode()})
            self.reply(200, {})
        else:
            form = {name: values[0] for name, values in parse_qs(content.decode()).items()}
            self.reply(201, self.state.answer(form))

    def do_GET(self) -> None:
        if self.path.startswith("/version1/messaging"):
            self.reply(200, {"SMSMessageData": {"Messages": []}})
            return
        self.reply(200, {"UserData": {"balance": self.state.balance}})


class _Controls(_Handler):
    def do_POST(self) -> None:
        self.state.reset(json.loads(self.body() or b"{}"))
        self.reply(200, {})

    def do_GET(self) -> None:
        if self.path == "/now":
            with self.state.change:
                self.reply(200, {"ledger": self.state.ledger, "events": self.state.events})
        else:
            self.reply(200, self.state.wait_until_alone())


class Provider:
    """The process, and what one asks of it."""

    def __init__(self) -> None:
        state = _State()
        servers = [
            _CountingServer(LOOPBACK, _bind(_AfricasTalking, state)),
            _Server(LOOPBACK, _bind(_Controls, state)),
        ]
        servers[0].state = state
        self.url, self._controls = (f"http://127.0.0.1:{one.server_address[1]}" for one in servers)
        watching, self._held = os.pipe()
        self._process_id = os.fork()
        if self._process_id == 0:
            os.close(self._held)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=_end_with, args=(watching,), daemon=True).start()
            threading.Thread(target=servers[0].serve_forever, daemon=True).start()
            servers[1].serve_forever()
            os._exit(0)
        os.close(watching)
        for one in servers:
            one.server_close()

    def reset(self, **how: Any) -> None:
        self._ask("/", json.dumps(how).encode())

    def wait_until_alone(self) -> dict[str, Any]:
        # What came before this call has been taken from the queue when it is answered.
        with _OPENER.open(self.url, timeout=TIMEOUT_SECONDS):
            pass
        found = self._ask("/alone")
        if not found["is_alone"]:
            raise TimeoutError("a process that has ended is still connected")
        return found

    def look(self) -> dict[str, Any]:
        return self._ask("/now")

    def close(self) -> None:
        os.kill(self._process_id, signal.SIGKILL)
        os.waitpid(self._process_id, 0)
        os.close(self._held)

    def _ask(self, path: str, content: bytes | None = None) -> dict[str, Any]:
        asked = urllib.request.Request(self._controls + path, data=content)
        with _OPENER.open(asked, timeout=TIMEOUT_SECONDS + 5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _end_with(watching: int) -> None:
    """With whoever started it, however that ended: nobody holds the other end of the pipe then."""
    os.read(watching, 1)
    os._exit(0)


def _bind(handler: type[_Handler], state: _State) -> type[_Handler]:
    return type("Handler", (handler,), {"state": state})
